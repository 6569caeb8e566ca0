'use strict'

// Real parts for the tests: redis-server on a free loopback port, the API as its own process, an HTTP client with a cookie.

const { spawn, execFileSync } = require('node:child_process')
const fs = require('node:fs')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')
const { setTimeout: sleep } = require('node:timers/promises')
const { createClient } = require('redis')

const API_DIR = path.join(__dirname, '..')
// No test waits this long unless something hangs.
const PATIENCE_MS = 30000

/** A free port of the loopback address. */
async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address()
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** Poll until `check` gives something truthy, and give that. `output`: what the process in question has said. */
async function until(what, check, output = { text: '' }) {
  const end = Date.now() + PATIENCE_MS
  for (;;) {
    const value = await check()
    if (value) return value
    if (Date.now() > end) throw new Error(`still not so: ${what}\n${output.text}`)
    await sleep(20)
  }
}

function tempDir(t) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'session-store-test-'))
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }))
  return dir
}

function capture(child) {
  const output = { text: '' }
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output.text += chunk))
  return output
}

const exitOf = (child) =>
  child.exitCode !== null || child.signalCode !== null
    ? Promise.resolve(child.exitCode)
    : new Promise((resolve) => child.once('exit', resolve))

async function kill(child) {
  child.kill('SIGCONT')
  child.kill('SIGKILL')
  await exitOf(child)
}

/** Start redis-server with `lines` of redis.conf added. Gives port, dir, admin (a client), send, pause, resume, stop. */
async function startRedis(t, lines = [], { port, dir = tempDir(t), admin: adminOptions = {}, waitFor = 'Ready to accept' } = {}) {
  port ??= await freePort()
  const tls = lines.some((line) => line.startsWith('tls-port'))
  const listen = tls ? ['port 0', `tls-port ${port}`] : [`port ${port}`]
  const conf = [...listen, 'bind 127.0.0.1', `dir ${dir}`, 'save ""', ...lines.filter((line) => !line.startsWith('tls-port'))]
  const child = spawn('redis-server', ['-'], { stdio: ['pipe', 'pipe', 'pipe'] })
  t.after(() => kill(child))
  const output = capture(child)
  child.stdin.end(conf.join('\n') + '\n')
  const says = () => {
    if (child.exitCode !== null) throw new Error(`redis-server died:\n${output.text}`)
    return output.text.includes(waitFor)
  }
  await until(`redis-server says "${waitFor}"`, says, output)
  const admin = createClient({ disableClientInfo: true, ...adminOptions, socket: { host: '127.0.0.1', port, ...adminOptions.socket } })
  admin.on('error', () => {})
  await admin.connect()
  t.after(() => admin.isOpen && admin.disconnect())
  return {
    port,
    dir,
    admin,
    send: (...args) => admin.sendCommand(args),
    pause: () => child.kill('SIGSTOP'),
    resume: () => child.kill('SIGCONT'),
    async stop() {
      if (admin.isOpen) await admin.disconnect()
      await kill(child)
    },
  }
}

/** A Redis and a replica of it that has caught up. */
async function startPair(t, lines = []) {
  const redis = await startRedis(t, ['repl-diskless-sync-delay 0', ...lines])
  const replica = await startRedis(t, [`replicaof 127.0.0.1 ${redis.port}`])
  await inSync(redis)
  return { redis, replica }
}

/**
 * Until its replica has said that it has all that was written. `state=online` is not enough: the stream begins with the replica's
 * first acknowledgement, up to a second later; and WAIT answers only for what its own connection wrote.
 */
async function inSync(redis) {
  await redis.send('PUBLISH', 'in-sync', '') // something to acknowledge, and no key
  await until('the replica is in sync', async () => {
    const [, acknowledged, written] = /state=online,offset=(\d+)[^]*master_repl_offset:(\d+)/.exec(await redis.send('INFO', 'replication')) ?? []
    return acknowledged > 0 && acknowledged === written
  })
}

/**
 * A TCP proxy, as HAProxy is one. `route(n)` says what becomes of connection number n, and may change: a port to lead it to,
 * 'close' it at once, or 'swallow' all it sends. `freeze()`: connections there are fall silent for good, both ways, without a RST.
 */
async function startProxy(t, route) {
  const open = new Set()
  const proxy = { route, accepted: 0, most: 0, open, cut: () => open.forEach((socket) => socket.destroy()) }
  const server = net
    .createServer((socket) => {
      socket.on('error', () => {}).on('close', () => open.delete(socket))
      open.add(socket)
      proxy.most = Math.max(proxy.most, open.size)
      const to = proxy.route(++proxy.accepted)
      if (to === 'close') return socket.destroy()
      if (to === 'swallow') return socket.resume()
      const onward = net.connect(to, '127.0.0.1').on('error', () => {})
      onward.on('close', () => socket.frozen || socket.destroy())
      socket.on('close', () => onward.destroy())
      socket.on('data', (data) => socket.frozen || onward.write(data))
      onward.on('data', (data) => socket.frozen || socket.write(data))
    })
    .listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  proxy.port = server.address().port
  proxy.freeze = () => open.forEach((socket) => (socket.frozen = true))
  t.after(() => {
    server.close()
    proxy.cut()
  })
  return proxy
}

/** An environment in which the API logs in without REDCap and refuses at once what Redis cannot serve. Only PATH comes from ours. */
const apiEnv = (redis, extra = {}) => ({
  PATH: process.env.PATH,
  NODE_ENV: 'development',
  AUTH_ENV: 'development',
  API_PORT: '0',
  API_SESSION_SECRET: 'first-secret-of-the-tests',
  REDIS_HOST: '127.0.0.1',
  REDIS_PORT: String(redis?.port ?? 1),
  SHUTDOWN_DELAY_MS: '0',
  SESSION_REQUEST_BUDGET_MS: '0', // failover.test.js has other budgets
  ...extra,
})

/** Start a script of ours and wait until it listens. `stop` sends SIGTERM and gives the exit code. */
async function startApi(t, env, { script = 'app.js', ready = true } = {}) {
  const child = spawn(process.execPath, [script], { cwd: API_DIR, env, stdio: ['ignore', 'pipe', 'pipe'] })
  t.after(() => kill(child))
  const output = capture(child)
  const listens = () => {
    if (child.exitCode !== null) throw new Error(`${script} died:\n${output.text}`)
    return /Listening on port (\d+)/.exec(output.text)?.[1]
  }
  const port = await until(`${script} listens`, listens, output)
  const api = {
    child,
    url: `http://127.0.0.1:${port}`,
    get log() {
      return output.text
    },
    request: (target, options = {}) =>
      fetch(api.url + target, { redirect: 'manual', signal: AbortSignal.timeout(PATIENCE_MS), ...options }),
    becomes(status, reason = '') {
      const check = async () => {
        const reply = await api.request('/readyz')
        const text = await reply.text()
        return reply.status === status && text.includes(reason) && (text || true)
      }
      return until(`/readyz is ${status} ${reason}`, check, output)
    },
    async stop() {
      child.kill('SIGTERM')
      return exitOf(child)
    },
    exited: () => exitOf(child),
  }
  if (ready) await api.becomes(200)
  return api
}

/** A browser of sorts: keeps the session cookie between requests, to whichever API. */
function visitor(headers = {}) {
  const self = {
    cookie: undefined,
    async visit(api, target, options = {}) {
      const sent = { ...headers, ...options.headers, ...(self.cookie && { cookie: self.cookie }) }
      const reply = await api.request(target, { ...options, headers: sent })
      const set = reply.headers.get('set-cookie')
      if (set) self.cookie = set.split(';')[0]
      const text = await reply.text()
      const json = reply.headers.get('content-type')?.includes('json')
      return { status: reply.status, headers: reply.headers, setCookie: set, body: json ? JSON.parse(text) : text }
    },
    logIn: (api, username) =>
      self.visit(api, '/auth', {
        method: 'POST',
        ...(username && { body: JSON.stringify({ username }), headers: { 'content-type': 'application/json' } }),
      }),
    status: (api) => self.visit(api, '/auth_status'),
    get sessionId() {
      return decodeURIComponent(self.cookie.split('=')[1]).slice(2).split('.')[0]
    },
  }
  return self
}

/** A CA in `dir`/NAME.crt and, signed by it, NAME-server.crt and .key for `names` (subjectAltName); both last `days`. */
function makeCa(dir, name, names = 'IP:127.0.0.1', days = '2') {
  const openssl = (...args) => execFileSync('openssl', args, { cwd: dir, stdio: 'pipe' })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-x509', '-days', days]
  openssl('req', ...key, '-keyout', `${name}.key`, '-out', `${name}.crt`, '-subj', `/CN=${name}`)
  openssl(
    'req',
    ...key,
    '-keyout',
    `${name}-server.key`,
    '-out',
    `${name}-server.crt`,
    '-subj',
    '/CN=redis',
    '-CA',
    `${name}.crt`,
    '-CAkey',
    `${name}.key`,
    '-addext',
    `subjectAltName=${names}`,
    '-addext',
    'basicConstraints=critical,CA:FALSE',
  )
  return {
    ca: path.join(dir, `${name}.crt`),
    conf: ['tls-port', `tls-cert-file ${dir}/${name}-server.crt`, `tls-key-file ${dir}/${name}-server.key`, 'tls-auth-clients no'],
  }
}

/** The value of one time series of /metrics, 0 if absent. `series` is written as there: name{label="value"}. */
async function metric(api, series) {
  const text = await (await api.request('/metrics')).text()
  const line = text.split('\n').find((one) => one.startsWith(`${series} `))
  return line ? Number(line.split(' ').at(-1)) : 0
}

module.exports = { API_DIR, apiEnv, exitOf, freePort, inSync, makeCa, metric, startApi, startPair, startProxy, startRedis, tempDir, until, visitor }
