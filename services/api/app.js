'use strict'

const http = require('node:http')
const os = require('node:os')
const express = require('express')
const { demoUser, verifiedUser, userOf, logIn, logOut } = require('./auth')
const { readConfig } = require('./config')
const { createMetrics } = require('./metrics')
const { createSessionStore, SettingsError } = require('./session-store')
const { drainOnSignal } = require('./shutdown')

function buildApp(config, sessions, metrics, lifecycle) {
  const app = express()
  app.disable('x-powered-by')
  app.set('trust proxy', sessions.trustProxy)
  app.use(metrics.middleware)
  app.use((_req, res, next) => {
    res.set('X-Served-By', os.hostname())
    if (lifecycle.draining) res.set('Connection', 'close')
    next()
  })

  // These three never touch the session store.
  app.get('/healthz', (_req, res) => res.json({ status: 'alive' }))
  app.get('/readyz', (_req, res) => {
    const { ready, reason } = lifecycle.draining ? { ready: false, reason: 'shutting down' } : sessions.readiness()
    res.status(ready ? 200 : 503).json({ status: ready ? 'ready' : 'unavailable', reason })
  })
  app.get('/metrics', metrics.handler)

  const withSession = [noStore, sessions.middleware]
  const withBody = [express.json({ limit: '16kb' }), express.urlencoded({ extended: false, limit: '16kb' })]

  app.post('/auth', withSession, withBody, async (req, res, next) => {
    try {
      const known = config.development ? null : userOf(req) // a REDCap code works once: a repeated form must not log out
      const user = known || (config.development ? demoUser(req.body) : await verifiedUser(req.body, config.redcapAuthUrl))
      if (!known) await logIn(req, user)
      if (config.dashboardUrl) res.redirect(config.dashboardUrl)
      else res.json({ authenticated: true, user })
    } catch (err) {
      next(err)
    }
  })

  app.get('/auth_status', withSession, (req, res) => {
    const user = userOf(req)
    if (user) res.json({ authenticated: true, user })
    else res.status(401).json({ authenticated: false })
  })

  for (const method of ['get', 'post']) {
    app[method]('/logout', withSession, async (req, res, next) => {
      try {
        await logOut(req)
        res.clearCookie(config.sessions.cookieName, sessions.cookieOptions)
        res.json({ authenticated: false })
      } catch (err) {
        next(err)
      }
    })
  }

  app.use((_req, res) => res.status(404).json({ error: 'Not found' }))
  app.use(sessions.errorHandler)
  app.use((err, _req, res, next) => {
    if (res.headersSent) return next(err)
    const status = err.status || 500
    if (status === 500) console.error('Unexpected error:', err)
    res.status(status).json({ error: err.expose ? err.message : http.STATUS_CODES[status] || 'Error' })
  })
  return app
}

function noStore(_req, res, next) {
  res.set('Cache-Control', 'no-store') // a cached login state outlives the login
  next()
}

function main() {
  const config = readConfig(process.env)
  const metrics = createMetrics()
  const sessions = createSessionStore({ settings: config.sessions, promClient: metrics.promClient, register: metrics.register })
  const lifecycle = { draining: false }
  const server = http.createServer(buildApp(config, sessions, metrics, lifecycle))
  server.on('error', (err) => {
    const busy = `API_PORT: port ${config.port} is in use; stop the other program or choose another port`
    console.error(err.code === 'EADDRINUSE' ? busy : `API_PORT: cannot listen on port ${config.port}: ${err.message}`)
    process.exit(1)
  })
  server.listen(config.port, () => console.log(`Listening on port ${server.address().port}`))
  drainOnSignal(server, sessions, lifecycle, config)
}

try {
  main()
} catch (err) {
  if (!(err instanceof SettingsError)) throw err
  console.error(`Cannot start: ${err.problems.length} of the settings in the environment to mend`)
  err.problems.forEach((problem) => console.error(`  ${problem}`))
  process.exitCode = 1
}
