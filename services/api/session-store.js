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
// While Redis cannot be used, the middleware answers 503 with Retry-After. Put `app.use(sessions.errorHandler)` last if routes
// call req.session.save, regenerate or destroy themselves and pass the error on with next(err).

const fs = require('node:fs')
const net = require('node:net')
const { X509Certificate } = require('node:crypto')
const session = require('express-session')
const RedisStore = require('connect-redis').default
const { createClient, ConnectionTimeoutError, DisconnectsClientError, ErrorReply } = require('redis')

const RETRY_AFTER_SECONDS = 2
const BACKOFF_FIRST_MS = 50
const BACKOFF_CAP_MS = 2000
const HEARTBEAT_MS = 1000
const LOG_REPEAT_MS = 30000

// What each failure means to whoever reads the log. The keys, in lower case, are also the only values of the metric label `reason`.
const MEANING = {
  CONNECTING: 'not connected yet',
  CONNECTION: 'cannot reach Redis (REDIS_HOST, REDIS_PORT; is REDIS_TLS right?)',
  TIMEOUT: 'Redis does not answer in time (REDIS_COMMAND_TIMEOUT_MS, REDIS_CONNECT_TIMEOUT_MS)',
  TLS: 'no trusted TLS connection (REDIS_TLS, REDIS_TLS_CA, REDIS_TLS_SERVERNAME)',
  WRONGPASS: 'Redis refuses REDIS_USERNAME or REDIS_PASSWORD',
  NOAUTH: 'Redis wants a password: set REDIS_PASSWORD',
  NOPERM: 'the Redis user lacks a permission (it needs GET SET DEL EXPIRE on the session prefix)',
  LOADING: 'Redis is loading its data',
  MASTERDOWN: 'this Redis is a replica without its master',
  READONLY: 'this Redis is a read-only replica',
  OOM: 'Redis is out of memory: sessions can be read but not written',
  MISCONF: 'Redis cannot persist and refuses writes',
  NOREPLICAS: 'Redis has too few replicas and refuses writes',
  CORRUPT: 'a stored session is not valid JSON and was ignored',
  OTHER: 'Redis refuses a command',
}
// The connection is fine and reads go on: whoever is logged in stays served.
const WRITES_REFUSED = new Set(['OOM', 'MISCONF', 'NOREPLICAS'])

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

  const tls = read.flag('REDIS_TLS', false)
  const caPath = text('REDIS_TLS_CA')
  const servername = text('REDIS_TLS_SERVERNAME')
  if (caPath && !text('REDIS_TLS')) problem('REDIS_TLS', 'unset though REDIS_TLS_CA is set; set REDIS_TLS=true (or false for plaintext)')
  if (servername && net.isIP(servername)) problem('REDIS_TLS_SERVERNAME', `"${servername}" is an address; give a host name or unset it`)
  if (tls && caPath) {
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
    tls: tls && { caPath, servername: servername || (net.isIP(host) ? undefined : host) },
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
    return { created: none, errors: none, latency: none, connected: none }
  }
  const registers = [register || promClient.register]
  return {
    created: new promClient.Counter({
      name: 'session_store_sessions_created_total',
      help: 'Sessions written for the first time',
      registers,
    }),
    errors: new promClient.Counter({
      name: 'session_store_errors_total',
      help: 'Failed operations of the session store',
      labelNames: ['operation', 'reason'],
      registers,
    }),
    latency: new promClient.Histogram({
      name: 'session_store_operation_duration_seconds',
      help: 'Time of a session store operation, failures included',
      labelNames: ['operation'],
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
      registers,
    }),
    connected: new promClient.Gauge({ name: 'session_store_connected', help: '1 while the session store can be used', registers }),
  }
}

/** Reject after `ms`. The reply wins if it has arrived but a busy event loop has not read it: timers run before input does. */
function within(ms, promise) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => setImmediate(reject, new SessionStoreError('TIMEOUT', `no reply within ${ms} ms`)), ms)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/**
 * Keep one verified connection to Redis. node-redis 4 knows no command timeout and waits for ever for a server that accepts
 * and then hangs, so this makes a fresh client for each attempt and throws the client away when anything is late: no reply
 * can reach the wrong command, nothing stays queued, and the CA file is read again each time.
 */
function superviseRedis(settings, prefix, metrics, say, info) {
  let current = null
  let problem = new SessionStoreError('CONNECTING')
  let writeProblem = null
  let attempts = 0
  let retryTimer
  let attempting = Promise.resolve()
  let beating = false
  let closed = false

  const redact = (text) => {
    const cut = String(text).replace(/,? with args beginning with.*/s, '') // Redis repeats arguments here: a password, a session id
    return settings.password ? cut.replaceAll(settings.password, '***') : cut
  }

  function failure(err) {
    if (err instanceof SessionStoreError) return err
    if (err instanceof DisconnectsClientError) return problem // went down with the connection that another command lost
    const detail = redact(err.errors?.map((one) => one.message).join('; ') || err.message || err.code || err)
    if (err instanceof ConnectionTimeoutError) {
      return new SessionStoreError('TIMEOUT', `no ${settings.tls ? 'TLS handshake (is this Redis without TLS?)' : 'connection'}`)
    }
    const word = /^[A-Z]+/.exec(err.message)?.[0]
    if (err instanceof ErrorReply) return new SessionStoreError(word in MEANING ? word : 'OTHER', detail)
    const tls = settings.tls && /TLS|SSL|CERT|SIGNATURE|ISSUER|EPROTO|ENOENT|PEM/.test(`${err.code} ${err.message}`)
    return new SessionStoreError(tls ? 'TLS' : 'CONNECTION', detail)
  }

  function newClient() {
    const { host, port, tls, connectTimeoutMs: connectTimeout } = settings
    const trust = tls && {
      tls: true,
      servername: tls.servername,
      minVersion: 'TLSv1.2',
      ...(tls.caPath && { ca: readCa(tls.caPath) }),
    }
    return createClient({
      socket: { host, port, connectTimeout, reconnectStrategy: false, ...trust },
      username: settings.username,
      password: settings.password,
      database: settings.database,
      disableOfflineQueue: true,
      disableClientInfo: true, // CLIENT SETINFO is an error before Redis 7.2 and for a restricted user
    })
  }

  // A write that changes nothing: it tells LOADING, READONLY, NOAUTH, NOPERM and the like from health, and PING needs no right more.
  const probe = (client) => client.expire(`${prefix}probe`, 1)

  function discard(client) {
    if (client?.isOpen) client.disconnect().catch(() => {})
  }

  function retryLater(err) {
    problem = failure(err)
    metrics.connected.set(0)
    if (closed) return
    const ceiling = Math.min(BACKOFF_CAP_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempts++, 10))
    retryTimer = setTimeout(() => void (attempting = attempt()), ceiling * (0.5 + Math.random() / 2))
  }

  function lose(client, err) {
    if (!client || client !== current) return
    current = null
    discard(client)
    if (closed) return
    retryLater(err)
    say(`lost ${problem.code}`, `Redis Client Error: connection given up: ${problem.message}; connecting again`)
  }

  async function attempt() {
    let client, handshakeTimer
    try {
      client = newClient()
      client.on('error', (err) => lose(client, err))
      const handshakeLate = new Promise((_, reject) => {
        client.once('connect', () => {
          const late = new SessionStoreError('TIMEOUT', 'connected, but the login is not answered')
          handshakeTimer = setTimeout(() => setImmediate(reject, late), settings.commandTimeoutMs)
        })
      })
      writeProblem = null
      await Promise.race([
        client
          .connect()
          .then(() => probe(client))
          .catch(toleratingRefusedWrites),
        handshakeLate,
      ])
      if (closed) return discard(client)
      if (!client.isReady) throw new Error('Socket closed unexpectedly')
      current = client
      attempts = 0
      metrics.connected.set(1)
      info('Connected to Redis for session storage')
    } catch (err) {
      discard(client)
      retryLater(err)
      metrics.errors.inc({ operation: 'connect', reason: problem.code.toLowerCase() })
      say(`connect ${problem.code}`, `Redis Client Error: ${problem.message}; trying again`)
    } finally {
      clearTimeout(handshakeTimer)
    }
  }

  function toleratingRefusedWrites(err) {
    const refused = failure(err)
    if (!WRITES_REFUSED.has(refused.code)) throw refused
    writeProblem = refused
  }

  async function run(operation, command) {
    const client = current
    const done = metrics.latency.startTimer({ operation })
    try {
      if (!client) throw problem
      const reply = await within(settings.commandTimeoutMs, command(client))
      // The probe is allowed while memory is short, so only a real write proves that OOM is over.
      if (operation === 'set' || (operation === 'ping' && writeProblem?.code !== 'OOM')) writeProblem = null
      return reply
    } catch (err) {
      const failed = failure(err)
      metrics.errors.inc({ operation, reason: failed.code.toLowerCase() })
      say(`${operation} ${failed.code}`, `Redis Client Error: session ${operation} failed: ${failed.message}`)
      if (WRITES_REFUSED.has(failed.code)) writeProblem = failed
      else if (failed.code !== 'OTHER') lose(client, failed) // READONLY too: after a failover the same name leads to the new master
      throw failed
    } finally {
      done()
    }
  }

  const heartbeat = setInterval(() => {
    if (beating || !current) return
    beating = true
    run('ping', probe)
      .catch(() => {})
      .finally(() => void (beating = false))
  }, HEARTBEAT_MS)

  attempting = attempt()

  return {
    run,
    get client() {
      return current
    },
    refusal: () => (current ? null : problem),
    readiness: () => ({ ready: current !== null, reason: (current ? writeProblem : problem)?.message }),
    async close() {
      closed = true
      clearInterval(heartbeat)
      clearTimeout(retryTimer)
      await attempting
      const client = current
      current = null
      metrics.connected.set(0)
      if (client) await within(settings.commandTimeoutMs, client.quit()).catch(() => discard(client))
    },
  }
}

/** connect-redis over a supervised connection: the methods connect-redis calls, each bounded in time and counted. */
function redisSessionStore(redis, settings, metrics, say) {
  const client = {
    get: (key) => redis.run('get', (c) => c.get(key)),
    set: (key, value, options) => redis.run('set', (c) => c.set(key, value, options)),
    del: (keys) => redis.run('destroy', (c) => c.del(keys)),
    expire: (key, seconds) => redis.run('touch', (c) => c.expire(key, seconds)),
    mGet: (keys) => redis.run('all', (c) => c.mGet(keys)),
    async *scanIterator(options) {
      let cursor = 0
      do {
        const page = await redis.run('scan', (c) => c.scan(cursor, options))
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
  const redis = inMemory ? null : superviseRedis(settings.redis, settings.prefix, metrics, say, (message) => log.info(message))
  const store = inMemory ? new session.MemoryStore() : redisSessionStore(redis, settings, metrics, say)
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
  const { generate, set } = store // `generate` is express-session's, put there by session()
  store.generate = (req) => {
    generate(req)
    fresh.add(req.session)
  }
  store.set = (sid, sess, callback = () => {}) => {
    const content = contentOf(sess)
    if (written.get(sess) === content) return callback() // express-session saves a regenerated session twice
    set.call(store, sid, sess, (err) => {
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
    const refusal = redis?.refusal()
    if (refusal) {
      metrics.errors.inc({ operation: 'request', reason: refusal.code.toLowerCase() })
      return replyUnavailable(refusal, req, res)
    }
    inner(req, res, (err) => {
      if (!err) {
        if (req.session && redis) saveBeforeReply(req, res, written)
        return next()
      }
      // Once the reply is out it is a touch that failed: counted and logged already, and the reply was true.
      if (!(err instanceof SessionStoreError && res.headersSent)) errorHandler(err, req, res, next)
    })
  }

  return {
    middleware,
    errorHandler,
    cookieOptions,
    trustProxy: settings.trustProxy,
    get client() {
      return redis?.client || null
    },
    readiness: () => (redis ? redis.readiness() : { ready: true, reason: 'SESSION_STORE=memory' }),
    close: async () => redis?.close(),
  }
}

module.exports = { createSessionStore, readSettings, settingsReader, SettingsError }
