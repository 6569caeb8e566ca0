'use strict'

// The session store of the API, in one file: copy it beside your app.js. Needs express-session, connect-redis and redis.
//
//   const { createSessionStore } = require('./session-store')
//   const sessions = createSessionStore()           // reads process.env, throws SettingsError, connects in the background
//   app.set('trust proxy', sessions.trustProxy)
//   app.use(sessions.middleware)                    // or on the routes that need a session only
//   sessions.readiness()                            // { ready, reason }
//   await sessions.close()
//
// While Redis changes over to another server, requests are held and what they ask of the store is tried again. Only when a request
// has used up its budget (SESSION_REQUEST_BUDGET_MS) the middleware answers 503 with Retry-After. Put `app.use(sessions.errorHandler)`
// last if routes call req.session.save, regenerate or destroy themselves and pass the error on with next(err).

const { AsyncLocalStorage } = require('node:async_hooks')
const dns = require('node:dns')
const fs = require('node:fs')
const net = require('node:net')
const tls = require('node:tls')
const { X509Certificate } = require('node:crypto')
const session = require('express-session')
const RedisStore = require('connect-redis').default
const { createClient, ConnectionTimeoutError, ErrorReply } = require('redis')

const RETRY_AFTER_SECONDS = 2
const BACKOFF_FIRST_MS = 50
const BACKOFF_CAP_MS = 300
// A proxy or node that has died swallows packets: nothing but silence tells. So whatever is late is not waited for alone.
const HEDGE_MS = 200 // a connection that is not ready by then gets company
const HEDGE_CAP_MS = 400
const PARALLEL_ATTEMPTS = 5
const SUSPECT_MS = 400 // a command without a reply by then: another connection is made ready beside this one
const LOOKUP_MS = 200 // a DNS answer that is later than this is replaced by the last good one
const REFUSED_PAUSE_MS = 100 // between tries on a connection that works
const HELD_MAX = 1000 // requests waiting for Redis at the same time, for each connection: some 20 MB
const HEARTBEAT_MS = 1000
const LOG_REPEAT_MS = 30000
const CERTIFICATE_MS = 3600000 // how often it is looked at which certificate Redis shows by now

// What each failure means to whoever reads the log. The keys, in lower case, are also the only values of the metric label `reason`.
const MEANING = {
  CONNECTING: 'not connected yet',
  CONNECTION: 'cannot reach Redis (REDIS_HOST, REDIS_PORT; is REDIS_TLS right?)',
  TIMEOUT: 'Redis does not answer in time (REDIS_COMMAND_TIMEOUT_MS, REDIS_CONNECT_TIMEOUT_MS)',
  TLS: 'no trusted TLS connection (REDIS_TLS, REDIS_TLS_CA, REDIS_TLS_SERVERNAME)',
  WRONGPASS: 'Redis refuses REDIS_USERNAME or REDIS_PASSWORD',
  NOAUTH: 'Redis wants a password: set REDIS_PASSWORD',
  NOPERM: 'the Redis user lacks a permission (it needs GET SET DEL EXPIRE on the session prefix; WAIT for SESSION_WAIT_REPLICAS)',
  LOADING: 'Redis is loading its data',
  MASTERDOWN: 'this Redis is a replica without its master',
  READONLY: 'this Redis is a read-only replica',
  OOM: 'Redis is out of memory: sessions can be read but not written',
  MISCONF: 'Redis cannot persist and refuses writes',
  NOREPLICAS: 'too few replicas to write safely',
  CORRUPT: 'a stored session is not valid JSON and was ignored',
  OTHER: 'Redis refuses a command',
}
// The connection is fine and reads go on: whoever is logged in stays served.
const WRITES_REFUSED = new Set(['OOM', 'MISCONF', 'NOREPLICAS'])
// What no retry within seconds mends. OOM: until sessions expire or somebody acts. MISCONF: a disk that is full or broken. NOPERM:
// until somebody changes the rights. OTHER: would be refused again. Everything else passes with a failover or a rotation: the next
// connection leads to the new master (CONNECTION, TIMEOUT, READONLY, MASTERDOWN), which may load its data (LOADING) or wait for its
// replicas (NOREPLICAS); a password or certificate may be here a moment before Redis has it, or after (WRONGPASS, NOAUTH, TLS).
const LASTING = new Set(['OOM', 'MISCONF', 'NOPERM', 'OTHER'])

const now = () => performance.now()
const jittered = (ms) => ms * (0.5 + Math.random() / 2)
// When the request that is being served has used up its budget, as time of now().
const requestDeadline = new AsyncLocalStorage()

/** All that is wrong with the environment, one line for each variable. */
class SettingsError extends Error {
  constructor(problems) {
    super(problems.join('\n'))
    this.name = 'SettingsError'
    this.problems = problems
  }
}

/** A store that cannot serve now. Without our errorHandler Express turns `status` and `headers` into the same reply. */
class SessionStoreError extends Error {
  constructor(code, detail) {
    super(`${code}: ${MEANING[code]}${detail ? `: ${detail}` : ''}`)
    this.name = 'SessionStoreError'
    this.code = code
    this.status = this.statusCode = 503
    this.headers = { 'Retry-After': String(RETRY_AFTER_SECONDS) }
  }
}

/** Typed reads of `env` (strings; empty means unset) that collect one problem for each bad variable. */
function settingsReader(env, problems) {
  const problem = (name, text) => void problems.push(`${name}: ${text}`)
  const text = (name, fallback) => (env[name] ? env[name] : fallback)
  const shown = (name) => JSON.stringify(text(name))
  return {
    problem,
    text,
    oneOf(name, values, fallback) {
      if (values.includes(text(name, fallback))) return text(name, fallback)
      problem(name, `${shown(name)} is not known; use ${values.join(' or ')}`)
    },
    flag: (name, fallback) => {
      if (['true', 'false', undefined].includes(text(name))) return text(name, String(fallback)) === 'true'
      problem(name, `${shown(name)} is not a yes or no; use true or false`)
    },
    integer(name, fallback, min, max) {
      const value = text(name, String(fallback))
      if (/^\d{1,9}$/.test(value) && Number(value) >= min && Number(value) <= max) return Number(value)
      const links = value.startsWith('tcp://') ? ` (Kubernetes service links set it: set ${name} yourself)` : ''
      problem(name, `${shown(name)} is not a whole number from ${min} to ${max}; give one or unset it${links}`)
    },
  }
}

/** `TRUST_PROXY` as Express's `trust proxy` takes it: a flag, a number of hops, or addresses. */
function readTrustProxy({ text, problem }) {
  const value = text('TRUST_PROXY', 'false')
  if (['true', 'false'].includes(value)) return value === 'true'
  if (/^\d{1,3}$/.test(value)) return Number(value)
  const isAddress = (part) => {
    const [address, bits, ...rest] = part.trim().split('/')
    const family = net.isIP(address)
    const range = bits === undefined || (/^\d+$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128))
    return ['loopback', 'linklocal', 'uniquelocal'].includes(part.trim()) || (family && range && !rest.length)
  }
  if (value.split(',').every(isAddress)) return value
  problem('TRUST_PROXY', `"${value}" is not known; use true, false, the number of proxies, or their addresses (10.0.0.0/8,loopback)`)
}

function readCa(path) {
  const pem = fs.readFileSync(path, 'utf8')
  const certificates = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) || []
  if (!certificates.length) throw new Error('it holds no PEM certificate')
  certificates.forEach((certificate) => new X509Certificate(certificate))
  return pem
}

function readRedisSettings(read) {
  const { problem, text } = read
  const host = text('REDIS_HOST', 'redis')
  if (!net.isIP(host) && !/^[A-Za-z0-9_.-]+$/.test(host)) {
    problem(
      'REDIS_HOST',
      `"${host.replace(/\/\/.*@/, '//…@')}" is not a host name; give the name or address only, the port goes to REDIS_PORT`,
    )
  }
  const password = text('REDIS_PASSWORD')
  if (/[\r\n]/.test(password)) problem('REDIS_PASSWORD', 'it holds a line break; write the Secret without one (echo -n)')
  if (text('REDIS_USERNAME') && !password) problem('REDIS_PASSWORD', 'missing though REDIS_USERNAME is set; set both or neither')

  const encrypted = read.flag('REDIS_TLS', false)
  const caPath = text('REDIS_TLS_CA')
  const servername = text('REDIS_TLS_SERVERNAME')
  if (caPath && !text('REDIS_TLS')) problem('REDIS_TLS', 'unset though REDIS_TLS_CA is set; set REDIS_TLS=true (or false for plaintext)')
  if (servername && net.isIP(servername)) problem('REDIS_TLS_SERVERNAME', `"${servername}" is an address; give a host name or unset it`)
  if (encrypted && caPath) {
    try {
      readCa(caPath)
    } catch (err) {
      problem('REDIS_TLS_CA', `cannot use "${caPath}": ${err.message}; give the path of a PEM bundle of CA certificates`)
    }
  }
  return {
    host,
    port: read.integer('REDIS_PORT', 6379, 1, 65535),
    username: text('REDIS_USERNAME'),
    password,
    database: read.integer('REDIS_SESSION_DB', 0, 0, 999999),
    tls: encrypted && { caPath, servername: servername || (net.isIP(host) ? undefined : host) },
    commandTimeoutMs: read.integer('REDIS_COMMAND_TIMEOUT_MS', 1000, 10, 60000),
    connectTimeoutMs: read.integer('REDIS_CONNECT_TIMEOUT_MS', 2000, 10, 60000),
  }
}

/**
 * Read and check every variable the session store knows.
 * @param {Object<string, string>} env
 * @returns {{settings: object, problems: string[]}} settings are usable only if there are no problems
 */
function readSettings(env) {
  const problems = []
  const read = settingsReader(env, problems)
  const { problem, text } = read
  const production = read.oneOf('NODE_ENV', ['production', 'development', 'test'], 'development') === 'production'
  const store = read.oneOf('SESSION_STORE', ['redis', 'memory'], 'redis')

  const secrets = text('API_SESSION_SECRET', '')
    .split(',')
    .map((secret) => secret.trim())
  if (!text('API_SESSION_SECRET')) problem('API_SESSION_SECRET', 'missing; set a long random text (openssl rand -hex 32)')
  else if (secrets.includes('')) problem('API_SESSION_SECRET', 'an entry of the comma-separated list is empty; remove the extra comma')
  else if (production && secrets.some((secret) => secret.length < 16)) {
    problem('API_SESSION_SECRET', 'shorter than 16 characters in production; use a long random text (openssl rand -hex 32)')
  }
  const prefix = text('SESSION_PREFIX', 'ctmd:sess:')
  if (/[\s*?[\]\\]/.test(prefix)) problem('SESSION_PREFIX', `"${prefix}" holds a blank or one of *?[]\\; use letters, digits and colons`)
  const cookieName = text('SESSION_COOKIE_NAME', 'connect.sid')
  if (!/^[\w!#$%&'*.^`|~+-]+$/.test(cookieName)) {
    problem('SESSION_COOKIE_NAME', `"${cookieName}" is not a cookie name; use letters, digits, dots and dashes`)
  }
  const settings = {
    store,
    secrets,
    prefix,
    cookieName,
    ttlSeconds: read.integer('SESSION_TTL_SECONDS', 12 * 60 * 60, 1, 365 * 24 * 60 * 60),
    cookieSecure: read.flag('SESSION_COOKIE_SECURE', production),
    cookieSameSite: read.oneOf('SESSION_COOKIE_SAMESITE', ['lax', 'strict'], 'lax'),
    trustProxy: readTrustProxy(read),
    requestBudgetMs: read.integer('SESSION_REQUEST_BUDGET_MS', 4000, 0, 60000),
    waitReplicas: read.integer('SESSION_WAIT_REPLICAS', 0, 0, 10),
    waitTimeoutMs: read.integer('SESSION_WAIT_TIMEOUT_MS', 500, 10, 10000),
    // Not even read in memory mode: the partial rollback must start however broken the Redis settings are.
    redis: store === 'memory' ? undefined : readRedisSettings(read),
  }
  return { settings, problems }
}

/** `say(key, message)` prints at once, then repeats of the same key at most every 30 s, with their count. */
function rateLimited(print) {
  const seen = new Map()
  return (key, message) => {
    const entry = seen.get(key) || { at: -Infinity, skipped: 0 }
    if (Date.now() - entry.at < LOG_REPEAT_MS) return void entry.skipped++
    print(entry.skipped ? `${message} (${entry.skipped} more like this since the last line)` : message)
    seen.set(key, { at: Date.now(), skipped: 0 })
  }
}

/** The store's metrics in `register`, or stand-ins that count nothing when no prom-client is given. */
function storeMetrics(promClient, register) {
  if (!promClient) {
    const none = { inc() {}, set() {}, startTimer: () => () => {} }
    return { created: none, errors: none, retries: none, unacknowledged: none, latency: none, connected: none, certificateExpiry: none }
  }
  const registers = [register || promClient.register]
  const certificateExpiry = new promClient.Gauge({
    name: 'session_store_certificate_expiry_timestamp_seconds',
    help: 'When the certificate ends that Redis shows',
    registers,
  })
  certificateExpiry.remove() // not 1970 where there is none
  return {
    certificateExpiry,
    created: new promClient.Counter({
      name: 'session_store_sessions_created_total',
      help: 'Sessions written for the first time',
      registers,
    }),
    errors: new promClient.Counter({
      name: 'session_store_errors_total',
      help: 'Operations of the session store that failed for good',
      labelNames: ['operation', 'reason'],
      registers,
    }),
    retries: new promClient.Counter({
      name: 'session_store_retries_total',
      help: 'Operations of the session store tried again after this failure',
      labelNames: ['operation', 'reason'],
      registers,
    }),
    unacknowledged: new promClient.Counter({
      name: 'session_store_wait_replicas_timeouts_total',
      help: 'New sessions that too few replicas acknowledged in time; tried again within the request budget',
      registers,
    }),
    latency: new promClient.Histogram({
      name: 'session_store_operation_duration_seconds',
      help: 'Time of a session store operation, failures and retries included',
      labelNames: ['operation'],
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
      registers,
    }),
    connected: new promClient.Gauge({ name: 'session_store_connected', help: '1 while the session store can be used', registers }),
  }
}

/** How a TLS connection to Redis is verified; null without TLS. The CA file is read each time, the end of the certificate goes to metrics. */
function trustOf(settings, metrics) {
  if (!settings.tls) return null
  const { servername, caPath } = settings.tls
  return {
    servername,
    minVersion: 'TLSv1.2',
    ...(caPath && { ca: readCa(caPath) }),
    checkServerIdentity(host, certificate) {
      metrics.certificateExpiry.set(Date.parse(certificate.valid_to) / 1000)
      return tls.checkServerIdentity(host, certificate)
    },
  }
}

/** Keep the metric true: a connection may be older than the last renewal, and knows only the certificate it was made with. */
function watchCertificate(settings, metrics) {
  function look() {
    try {
      const { host, port, connectTimeoutMs } = settings
      const socket = tls.connect({ host, port, ...trustOf(settings, metrics) }, () => socket.destroy())
      socket.setTimeout(connectTimeoutMs, () => socket.destroy())
      socket.on('error', () => {}) // the connections that count tell what is wrong
    } catch {
      // A CA file that cannot be read: as above.
    }
  }
  return setInterval(look, CERTIFICATE_MS).unref()
}

/** Call `act` in `ms` unless cancelled. What has arrived but a busy event loop has not read goes first: timers run before input does. */
function later(ms, act) {
  let cancelled = false
  const timer = setTimeout(() => setImmediate(() => cancelled || act()), ms)
  return () => {
    cancelled = true
    clearTimeout(timer)
  }
}

/** Reject after `ms`. */
function within(ms, promise) {
  let cancel
  const late = new Promise((_, reject) => {
    cancel = later(ms, () => reject(new SessionStoreError('TIMEOUT', `no reply within ${Math.round(ms)} ms`)))
  })
  return Promise.race([promise, late]).finally(cancel)
}

/**
 * dns.lookup for one host, with the last good answer where DNS is late or broken, as it is when its pod was on the node that died.
 * One question at a time: they share the four threads of libuv.
 */
function steadyLookup() {
  let known, asking
  return (host, options, callback) => {
    asking ??= new Promise((resolve) => {
      dns.lookup(host, options, (err, ...answer) => {
        asking = undefined
        if (!err) known = answer
        resolve(err)
      })
    })
    const late = known ? [new Promise((resolve) => setTimeout(resolve, LOOKUP_MS))] : []
    Promise.race([asking, ...late]).then((err) => (known && err?.code !== 'ENOTFOUND' ? callback(null, ...known) : callback(err)))
  }
}

/**
 * Keep one verified connection to Redis. node-redis 4 knows no command timeout and waits for ever for a server that accepts
 * and then hangs, so this makes a fresh client for each attempt and throws the client away when anything is late: no reply
 * can reach the wrong command, nothing stays queued, and the CA file is read again each time.
 *
 * While there is no connection, or the one there is has gone silent, attempts are made side by side and the first that is ready
 * takes its place. What was in flight on the old one is tried again on the new one. Every operation may be repeated: a SET that
 * was given up may have been applied, and the same SET again changes nothing.
 * @param {object} settings
 * @param {object} role `purpose` for the log, `slackMs` that a command may block by its nature, `onSilence`, metrics, say, info
 */
function superviseRedis({ redis: settings, prefix, requestBudgetMs }, { purpose, slackMs = 0, metrics, say, info, onSilence }) {
  const lateMs = settings.commandTimeoutMs + slackMs
  const suspectMs = Math.min(SUSPECT_MS, settings.commandTimeoutMs * 0.4) + slackMs
  const lookup = steadyLookup()
  const abandon = new WeakMap() // client -> what closes its socket, also one that is still connecting, which node-redis cannot
  const attempts = new Set() // clients that are not ready yet
  const held = new Set() // one function to wake each operation or request that waits
  let current = null
  let problem = new SessionStoreError('CONNECTING')
  let writeProblem = null
  let awaySince = null // when the connection went away or silent
  let failures = 0
  let dropped = 0
  let nextAttempt
  let beating = false
  let closed = false

  const redact = (text) => {
    const cut = String(text).replace(/,? with args beginning with.*/s, '') // Redis repeats arguments here: a password, a session id
    return settings.password ? cut.replaceAll(settings.password, '***') : cut
  }

  function failure(err) {
    if (err instanceof SessionStoreError) return err
    if (err.name === 'AbortError') return problem // went down with the connection that another command lost
    const detail = redact(err.errors?.map((one) => one.message).join('; ') || err.message || err.code || err)
    if (err instanceof ConnectionTimeoutError) {
      return new SessionStoreError('TIMEOUT', `no connection${settings.tls ? ' (is this Redis without TLS?)' : ''}`)
    }
    if (err instanceof ErrorReply) {
      const word = /^[A-Z]+/.exec(err.message)?.[0]
      const demoted = word === 'UNBLOCKED' || err.message.includes('WAIT cannot be used with replica') // between SET and WAIT
      return new SessionStoreError(demoted ? 'READONLY' : word in MEANING ? word : 'OTHER', detail)
    }
    // A proxy that has no master closes during the handshake too; that has nothing to do with trust.
    const distrust =
      settings.tls && err.code !== 'ECONNRESET' && /TLS|SSL|CERT|SIGNATURE|ISSUER|EPROTO|ENOENT|PEM/.test(`${err.code} ${err.message}`)
    return new SessionStoreError(distrust ? 'TLS' : 'CONNECTION', detail)
  }

  function newClient() {
    const { host, port, connectTimeoutMs: connectTimeout } = settings
    const trust = settings.tls && { tls: true, ...trustOf(settings, metrics) }
    const controller = new AbortController()
    const client = createClient({
      socket: { host, port, connectTimeout, lookup, signal: controller.signal, reconnectStrategy: false, ...trust },
      username: settings.username,
      password: settings.password,
      database: settings.database,
      disableOfflineQueue: true,
      disableClientInfo: true, // CLIENT SETINFO is an error before Redis 7.2 and for a restricted user
    })
    client.on('error', (err) => lose(client, err))
    abandon.set(client, () => controller.abort())
    return client
  }

  // A write that changes nothing: it tells LOADING, READONLY, NOAUTH, NOPERM and the like from health, and PING needs no right more.
  const probe = (client) => client.expire(`${prefix}probe`, 1)

  function attemptSoon(ms) {
    clearTimeout(nextAttempt)
    if (!closed) nextAttempt = setTimeout(attempt, jittered(ms))
  }

  async function attempt() {
    if (attempts.size >= PARALLEL_ATTEMPTS) {
      // The oldest makes room: half of the Service may be dead. Each further one is given more time, for it may be slow only.
      const [oldest] = attempts
      attemptFailed(oldest, new ConnectionTimeoutError())
      dropped++
    }
    attemptSoon(Math.min(HEDGE_MS * 2 ** dropped, HEDGE_CAP_MS))
    let client
    let refused = null
    try {
      client = newClient()
      attempts.add(client)
      const login = async () => {
        await client.connect()
        await probe(client).catch((err) => {
          refused = failure(err)
          if (!WRITES_REFUSED.has(refused.code)) throw refused
        })
        if (!client.isReady) throw new Error('Socket closed unexpectedly')
      }
      await within(settings.connectTimeoutMs + settings.commandTimeoutMs, login())
      if (attempts.has(client)) take(client, refused)
    } catch (err) {
      if (client && !attempts.has(client)) return // not needed any more
      attemptFailed(client, err)
      attemptSoon(Math.min(BACKOFF_CAP_MS, BACKOFF_FIRST_MS * 2 ** Math.min(failures++, 10)))
    }
  }

  function attemptFailed(client, err) {
    attempts.delete(client)
    abandon.get(client)?.()
    const failed = failure(err)
    if (!current) problem = failed
    metrics.errors.inc({ operation: 'connect', reason: failed.code.toLowerCase() })
    say(`connect ${failed.code}`, `Redis Client Error: ${failed.message}; trying again`)
  }

  function stopAttempts() {
    clearTimeout(nextAttempt)
    attempts.forEach((client) => abandon.get(client)())
    attempts.clear()
    failures = dropped = 0
  }

  function take(client, refused) {
    attempts.delete(client)
    stopAttempts()
    const silent = current
    current = client
    writeProblem = refused
    if (silent) {
      problem = new SessionStoreError('TIMEOUT', 'no reply, and another connection is ready')
      say(`lost ${problem.code}`, `Redis Client Error: connection given up: ${problem.message}`)
      abandon.get(silent)()
    }
    info(`Connected to Redis for ${purpose}${awaySince === null ? '' : ` again, after ${Math.round(now() - awaySince)} ms`}`)
    awaySince = null
    metrics.connected.set(1)
    held.forEach((wake) => wake())
  }

  function lose(client, err) {
    if (!client || client !== current) return
    current = null
    problem = failure(err)
    awaySince ??= now()
    metrics.connected.set(0)
    abandon.get(client)()
    if (closed) return
    say(`lost ${problem.code}`, `Redis Client Error: connection given up: ${problem.message}; connecting again`)
    if (!attempts.size) attemptSoon(BACKOFF_FIRST_MS)
  }

  /** Make another connection ready beside a silent one, which stays if it answers first. */
  function suspect(silentMs = 0) {
    if (!current || awaySince !== null) return
    awaySince = now() - silentMs
    attempt()
    onSilence?.()
  }

  /** The reply to a command that was sent on `client`. */
  async function reply(client, promise) {
    const doubt = later(suspectMs, () => client === current && suspect(suspectMs))
    try {
      const value = await within(lateMs, promise)
      if (client === current && awaySince !== null) {
        awaySince = null // slow, not dead
        stopAttempts()
      }
      return value
    } catch (err) {
      const failed = failure(err)
      if (WRITES_REFUSED.has(failed.code)) writeProblem = failed
      else if (failed.code !== 'OTHER') lose(client, failed) // READONLY too: after a failover the same name leads to the new master
      throw failed
    } finally {
      doubt()
    }
  }

  /** Wait for the next connection, or a moment if there is one. False: no use to try again (past the deadline, closed, too many wait). */
  async function hold(deadline) {
    const left = deadline - now()
    if (closed || left <= 0 || held.size >= HELD_MAX) return false
    await new Promise((resolve) => {
      const timer = setTimeout(wake, current ? Math.min(left, jittered(REFUSED_PAUSE_MS)) : left)
      held.add(wake)
      function wake() {
        clearTimeout(timer)
        held.delete(wake)
        resolve()
      }
    })
    return !closed && now() < deadline
  }

  /** Run `command(client, reply)`, and again within the budget of the request while what stops it may pass. */
  async function run(operation, command) {
    const deadline = requestDeadline.getStore() ?? now() + requestBudgetMs
    const done = metrics.latency.startTimer({ operation })
    for (;;) {
      const client = current
      try {
        if (!client) throw problem
        const value = await command(client, (promise) => reply(client, promise))
        if (operation === 'set') writeProblem = null
        done()
        return value
      } catch (err) {
        const moved = client && current && client !== current && now() < deadline
        if (!LASTING.has(err.code) && (moved || (await hold(deadline)))) {
          metrics.retries.inc({ operation, reason: err.code.toLowerCase() })
          continue
        }
        const failed = LASTING.has(err.code) || current ? err : problem
        metrics.errors.inc({ operation, reason: failed.code.toLowerCase() })
        say(`${operation} ${failed.code}`, `Redis Client Error: session ${operation} failed: ${failed.message}`)
        done()
        throw failed
      }
    }
  }

  async function beat() {
    if (beating || !current) return
    beating = true
    try {
      await reply(current, probe(current))
      // The probe is allowed while memory is short, so only a real write proves that OOM is over.
      if (writeProblem?.code !== 'OOM') writeProblem = null
    } catch (err) {
      metrics.errors.inc({ operation: 'ping', reason: err.code.toLowerCase() })
    }
    beating = false
  }
  const heartbeat = setInterval(beat, HEARTBEAT_MS)

  attempt()

  return {
    run,
    hold,
    suspect,
    get client() {
      return current
    },
    refusal: () => problem,
    trouble: () => (current ? writeProblem : problem),
    awayMs: () => (awaySince === null ? Infinity : now() - awaySince),
    async close() {
      closed = true
      clearInterval(heartbeat)
      stopAttempts()
      held.forEach((wake) => wake())
      const client = current
      current = null
      metrics.connected.set(0)
      if (client) await within(settings.commandTimeoutMs, client.quit()).catch(() => abandon.get(client)())
    },
  }
}

/**
 * SET of a new session, answered when enough replicas have it. WAIT counts the replicas that have all that was written before it on
 * the same connection, so one WAIT answers for every SET since the last: under load, or without replicas, logins do not queue up.
 */
function replicatedSet(redis, { waitReplicas, waitTimeoutMs }, metrics) {
  const rounds = new WeakMap() // client -> { running, next }: promises of the WAIT that is out, and of the one after it
  function acknowledged(client, reply) {
    if (!rounds.has(client)) rounds.set(client, { running: Promise.resolve(), next: null })
    const round = rounds.get(client)
    const send = () => {
      round.next = null
      round.running = reply(client.wait(waitReplicas, waitTimeoutMs))
      return round.running
    }
    round.next ??= round.running.then(send, send)
    return round.next
  }
  return (key, value, options) =>
    redis.run('set', async (client, reply) => {
      const [, replicas] = await Promise.all([reply(client.set(key, value, options)), acknowledged(client, reply)])
      if (replicas >= waitReplicas) return
      metrics.unacknowledged.inc()
      throw new SessionStoreError('NOREPLICAS', `${replicas} of ${waitReplicas} replicas have the new session`)
    })
}

/** connect-redis over a supervised connection: the methods connect-redis calls, each bounded in time, tried again and counted. */
function redisSessionStore(redis, settings, metrics, say, set) {
  const run = (operation, send) => redis.run(operation, (client, reply) => reply(send(client)))
  const client = {
    get: (key) => run('get', (c) => c.get(key)),
    set: set || ((key, value, options) => run('set', (c) => c.set(key, value, options))),
    del: (keys) => run('destroy', (c) => c.del(keys)),
    expire: (key, seconds) => run('touch', (c) => c.expire(key, seconds)),
    mGet: (keys) => run('all', (c) => c.mGet(keys)),
    async *scanIterator(options) {
      let cursor = 0
      do {
        const page = await run('scan', (c) => c.scan(cursor, options))
        yield* page.keys
        cursor = page.cursor
      } while (cursor !== 0)
    },
  }
  // A record that is no session must not answer 500 until its cookie dies: it counts as no session, and a login replaces it.
  const parse = (text) => {
    try {
      const data = JSON.parse(text)
      if (data?.cookie && typeof data.cookie === 'object') return data
    } catch {
      // counted below
    }
    metrics.errors.inc({ operation: 'get', reason: 'corrupt' })
    say('get CORRUPT', `Redis Client Error: ${new SessionStoreError('CORRUPT').message}`)
  }
  return new RedisStore({ client, prefix: settings.prefix, ttl: settings.ttlSeconds, serializer: { parse, stringify: JSON.stringify } })
}

/** Express error handler: the 503 for errors of the store, anything else goes on. */
function errorHandler(err, req, res, next) {
  if (err instanceof SessionStoreError && !res.headersSent) replyUnavailable(err, req, res)
  else next(err)
}

const contentOf = (sess) => JSON.stringify({ ...sess, cookie: undefined })

/** Answer 503 with Retry-After in place of whatever the reply was to be. */
function replyUnavailable(err, req, res) {
  delete req.session // else express-session would try to save it again and hand out its cookie
  for (const name of ['Set-Cookie', 'Location', 'ETag', 'Content-Length', 'Content-Encoding']) res.removeHeader(name)
  res.statusCode = err.status
  res.setHeader('Retry-After', err.headers['Retry-After'])
  res.setHeader('Cache-Control', 'no-store')
  res.setHeader('Content-Type', 'application/json; charset=utf-8')
  res.end(JSON.stringify({ error: 'The session store is unavailable, try again soon', reason: err.code }))
}

/**
 * Save a changed session before the reply starts. express-session saves it when most of the reply is already on its way,
 * so a login whose session could not be saved would still say 200.
 */
function saveBeforeReply(req, res, written) {
  const loaded = contentOf(req.session)
  const loadedId = req.sessionID
  const end = res.end
  let saving = false
  res.end = function (...args) {
    if (saving) return res
    const { session: sess } = req
    const changed = sess && (sess.id !== loadedId || contentOf(sess) !== loaded)
    if (!changed || res.headersSent || written.get(sess) === contentOf(sess)) return end.apply(res, args)
    saving = true
    sess.save((err) => {
      res.end = end
      if (err) replyUnavailable(err, req, res)
      else end.apply(res, args)
    })
    return res
  }
}

/**
 * Make the session middleware and connect to Redis in the background.
 * @param {object} [options]
 * @param {Object<string, string>} [options.env] where the settings are read; process.env if absent
 * @param {object} [options.settings] settings of readSettings, instead of env
 * @param {object} [options.promClient] the prom-client module, for metrics
 * @param {object} [options.register] the registry for them; prom-client's own if absent
 * @param {{info: Function, error: Function}} [options.log] console if absent
 * @returns {{middleware: Function, errorHandler: Function, client: object, trustProxy: *, cookieOptions: object, readiness: Function, close: Function}}
 * @throws {SettingsError} with all problems at once
 */
function createSessionStore({ env = process.env, settings, promClient, register, log = console } = {}) {
  if (!settings) {
    const read = readSettings(env)
    if (read.problems.length) throw new SettingsError(read.problems)
    settings = read.settings
  }
  const say = rateLimited((message) => log.error(message))
  const metrics = storeMetrics(promClient, register)
  const inMemory = settings.store === 'memory'
  const supervise = (role) => superviseRedis(settings, { metrics, say, info: (message) => log.info(message), ...role })
  // A proxy that died may have taken both connections: what this one finds out the other need not wait for.
  const redis = inMemory ? null : supervise({ purpose: 'session storage', onSilence: () => durable?.suspect() })
  // WAIT blocks its connection, so new sessions that wait for replicas have one of their own.
  const durable =
    inMemory || !settings.waitReplicas
      ? null
      : supervise({ purpose: 'durable logins', slackMs: settings.waitTimeoutMs, metrics: { ...metrics, connected: { set() {} } } })
  const watching = inMemory || !settings.redis.tls ? null : watchCertificate(settings.redis, metrics)
  const store = inMemory ? new session.MemoryStore() : redisSessionStore(redis, settings, metrics, say)
  const creation = durable ? redisSessionStore(redis, settings, metrics, say, replicatedSet(durable, settings, metrics)) : store
  if (inMemory) {
    log.error(
      'SESSION_STORE=memory: sessions are NOT in Redis: lost at restart, not shared between replicas. Set SESSION_STORE=redis again soon',
    )
    metrics.connected.set(1)
  }

  const cookieOptions = { path: '/', httpOnly: true, secure: settings.cookieSecure, sameSite: settings.cookieSameSite }
  const inner = session({
    store,
    name: settings.cookieName,
    secret: settings.secrets,
    resave: false,
    saveUninitialized: false,
    cookie: { ...cookieOptions, maxAge: settings.ttlSeconds * 1000 },
  })

  const fresh = new WeakSet() // sessions of this request that were never in the store
  const written = new WeakMap() // session -> content last written
  const { generate, regenerate, set, touch } = store // `generate` is express-session's, put there by session()
  const create = creation === store ? set : creation.set.bind(creation)
  store.generate = (req) => {
    generate(req)
    fresh.add(req.session)
  }
  store.regenerate = (req, callback) => {
    if (!fresh.has(req.session)) return regenerate.call(store, req, callback)
    store.generate(req) // no trip to Redis to destroy what was never there
    callback()
  }
  // express-session holds back the end of each reply until the session's life is extended. It need not: where that fails the reply
  // is true all the same, the failure is logged and counted, and the next request extends it.
  store.touch = (sid, sess, callback = () => {}) => {
    touch.call(store, sid, sess, () => {})
    callback()
  }
  store.set = (sid, sess, callback = () => {}) => {
    const content = contentOf(sess)
    if (written.get(sess) === content) return callback() // express-session saves a regenerated session twice
    const write = fresh.has(sess) ? create : set
    write.call(store, sid, sess, (err) => {
      if (err) return callback(err)
      written.set(sess, content)
      if (fresh.delete(sess)) {
        metrics.created.inc()
        if (sess.cookie.secure && !sess.req.secure) {
          say(
            'insecure',
            'Session cookie NOT sent: it is for HTTPS only and the request came by HTTP. ' +
              'Behind a proxy set TRUST_PROXY; without HTTPS set SESSION_COOKIE_SECURE=false',
          )
        }
      }
      callback()
    })
  }

  // The store never emits 'disconnect': express-session would then go on without a session and people would look logged out.
  function middleware(req, res, next) {
    const deadline = now() + settings.requestBudgetMs
    requestDeadline.run(deadline, () => {
      if (!redis || redis.client) return serve(req, res, next)
      // Held before the route runs, for what it does may not bear repeating.
      redis
        .hold(deadline)
        .then(() => (redis.client ? serve(req, res, next) : refuse(req, res)))
        .catch(next)
    })
  }

  function refuse(req, res) {
    const refusal = redis.refusal()
    metrics.errors.inc({ operation: 'request', reason: refusal.code.toLowerCase() })
    replyUnavailable(refusal, req, res)
  }

  function serve(req, res, next) {
    inner(req, res, (err) => {
      if (!err) {
        if (req.session && redis) saveBeforeReply(req, res, written)
        return next()
      }
      // Once the reply is on its way there is nobody to tell: a save that failed was counted and logged.
      if (!(err instanceof SessionStoreError && res.headersSent)) errorHandler(err, req, res, next)
    })
  }

  // A pod whose Redis is away stays in its Service while it would hold a request rather than refuse it: a failover of seconds must
  // not empty the Service. One that was never connected does not get in.
  function readiness() {
    if (inMemory) return { ready: true, reason: 'SESSION_STORE=memory' }
    return {
      ready: redis.awayMs() < settings.requestBudgetMs || redis.client !== null,
      reason: (redis.trouble() || durable?.trouble())?.message,
    }
  }

  return {
    middleware,
    errorHandler,
    cookieOptions,
    trustProxy: settings.trustProxy,
    get client() {
      return redis?.client || null
    },
    readiness,
    close() {
      clearInterval(watching)
      return Promise.all([redis?.close(), durable?.close()])
    },
  }
}

module.exports = { createSessionStore, readSettings, settingsReader, SettingsError }
