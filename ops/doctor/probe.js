// Run in a pod of the API by `ops doctor`: what this pod sees of Redis, one step after the other, as JSON. Changes nothing:
// EXPIRE of a key that is not there is how the API itself looks whether Redis takes writes. Secrets leave only as SHA-256.
const dns = require('node:dns')
const fs = require('node:fs')
const http = require('node:http')
const net = require('node:net')
const tls = require('node:tls')
const { createHash, X509Certificate } = require('node:crypto')

const env = process.env
const sha = (text) => createHash('sha256').update(text).digest('hex')
const host = env.REDIS_HOST || 'redis'
const port = Number(env.REDIS_PORT || 6379)
const bad = (err) => ({ code: err.code || err.name, message: String(err.message).slice(0, 200) })
const SHOWN = /^(NODE_ENV|API_PORT|TRUST_PROXY|REDIS_(HOST|PORT|USERNAME|SESSION_DB|TLS|TLS_CA|TLS_SERVERNAME)|SESSION_[A-Z_]+)$/

function within(ms, act) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve({ code: 'TIMEOUT', message: `no answer within ${ms} ms` }), ms)
    act((result) => {
      clearTimeout(timer)
      resolve(result)
    })
  })
}

function ask(socket, words) {
  const line = `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`
  return within(2000, (done) => {
    socket.once('data', (data) => done(String(data).split('\r\n')[0]))
    socket.once('close', () => done({ code: 'CLOSED', message: 'the connection was closed without an answer' }))
    socket.write(line)
  })
}

async function main() {
  const seen = { now: Date.now(), env: {} }
  for (const [name, value] of Object.entries(env)) if (SHOWN.test(name) && !/SECRET|PASSWORD/.test(name)) seen.env[name] = value
  seen.password = env.REDIS_PASSWORD ? sha(env.REDIS_PASSWORD) : null
  seen.sessionSecrets = (env.API_SESSION_SECRET || '').split(',').filter(Boolean).map((text) => sha(text.trim()))
  seen.readyz = await within(2000, (done) => {
    const request = http.get({ port: env.API_PORT || 3030, path: '/readyz' }, (reply) => {
      let text = ''
      reply.on('data', (part) => (text += part))
      reply.on('end', () => done({ status: reply.statusCode, body: text.slice(0, 500) }))
    })
    request.on('error', (err) => done(bad(err)))
  })
  if (env.SESSION_STORE === 'memory') return seen

  seen.dns = await within(5000, (done) => {
    dns.lookup(host, (err, address) => done(err ? bad(err) : { address }))
  })
  try {
    seen.nameServers = fs.readFileSync('/etc/resolv.conf', 'utf8').match(/^nameserver \S+/gm)
  } catch {}
  if (!seen.dns.address) return seen

  let socket
  seen.tcp = await within(3000, (done) => {
    socket = net.connect(port, seen.dns.address)
    socket.once('connect', () => done({ ok: true }))
    socket.once('error', (err) => done(bad(err)))
  })
  if (!seen.tcp.ok) return seen
  socket.on('error', () => {})

  if (env.REDIS_TLS === 'true') {
    let ca
    try {
      if (env.REDIS_TLS_CA) {
        ca = fs.readFileSync(env.REDIS_TLS_CA, 'utf8')
        seen.ca = new X509Certificate(ca).fingerprint256
      }
    } catch (err) {
      seen.ca = bad(err)
    }
    const servername = env.REDIS_TLS_SERVERNAME || (net.isIP(host) ? undefined : host)
    seen.tls = await within(3000, (done) => {
      const plain = socket
      plain.once('close', () => done({ code: 'CLOSED', message: 'the connection was closed during the handshake' }))
      socket = tls.connect({ socket: plain, host, servername, ca, rejectUnauthorized: false, minVersion: 'TLSv1.2' }, () => {
        const shown = socket.getPeerCertificate()
        const about = { fingerprint: shown.fingerprint256, names: shown.subjectaltname, until: shown.valid_to, servername }
        const wrong = socket.authorizationError
        done({ ...about, ...(wrong ? { code: wrong.code || String(wrong) } : { ok: true }) })
      })
      socket.on('error', (err) => done(bad(err)))
    })
    if (!seen.tls.ok) return seen
  }
  if (env.REDIS_PASSWORD) {
    seen.auth = await ask(socket, ['AUTH', ...(env.REDIS_USERNAME ? [env.REDIS_USERNAME] : []), env.REDIS_PASSWORD])
    if (!String(seen.auth).startsWith('+')) return seen
  }
  seen.write = await ask(socket, ['EXPIRE', `${env.SESSION_PREFIX || 'ctmd:sess:'}doctor`, '1'])
  return seen
}

main().then(
  (seen) => {
    console.log(JSON.stringify(seen))
    process.exit()
  },
  (err) => {
    console.error(err)
    process.exit(1)
  },
)
