'use strict'

// Redis away, hung, loading, full, read-only, or not ours to use: 503 in bounded time, no exit, and recovery by itself.

const { test } = require('node:test')
const assert = require('node:assert/strict')
const fs = require('node:fs')
const net = require('node:net')
const path = require('node:path')
const { apiEnv, freePort, metric, startApi, startRedis, until, visitor } = require('./helpers')

function assertUnavailable(reply, reason) {
  assert.equal(reply.status, 503)
  assert.ok(Number(reply.headers.get('retry-after')) >= 1, 'Retry-After is given')
  assert.equal(reply.setCookie, null, 'no cookie for a session that is not stored')
  if (reason) assert.equal(reply.body.reason, reason)
}

test('Redis killed: 503 at once, alive, not ready; back by itself with the sessions of before', async (t) => {
  const redis = await startRedis(t, ['appendonly yes', 'appendfsync always'])
  const api = await startApi(t, apiEnv(redis))
  const ada = visitor()
  await ada.logIn(api, 'ada')
  await redis.stop()
  await api.becomes(503, 'CONNECTION')

  for (const reply of [await ada.status(api), await visitor().status(api), await visitor().logIn(api), await ada.visit(api, '/logout')]) {
    assertUnavailable(reply, 'CONNECTION')
  }
  assert.equal((await api.request('/healthz')).status, 200)
  assert.equal((await api.request('/metrics')).status, 200)
  assert.equal(await metric(api, 'session_store_connected'), 0)
  assert.ok((await metric(api, 'session_store_errors_total{operation="request",reason="connection"}')) >= 4)

  await startRedis(t, ['appendonly yes'], { port: redis.port, dir: redis.dir })
  await api.becomes(200)
  assert.equal((await ada.status(api)).body.user.username, 'ada')
  assert.equal(api.log.match(/^Connected to Redis for session storage$/gm).length, 1)
  assert.match(api.log, /^Connected to Redis for session storage again, after \d+ ms$/m)
  assert.equal(await api.stop(), 0)
})

test('an API that starts before Redis waits for it', async (t) => {
  const port = await freePort()
  const api = await startApi(t, apiEnv({ port }), { ready: false })
  await api.becomes(503, 'ECONNREFUSED')
  assertUnavailable(await visitor().logIn(api))
  assert.doesNotMatch(api.log, /Connected to Redis/)
  await startRedis(t, [], { port })
  await api.becomes(200)
  assert.equal((await visitor().logIn(api)).status, 200)
})

test('a name that does not resolve is a reason, not an exit; SIGTERM still ends the API', async (t) => {
  const api = await startApi(t, apiEnv(null, { REDIS_HOST: 'no-such-host.invalid' }), { ready: false })
  await api.becomes(503, 'no-such-host.invalid')
  assertUnavailable(await visitor().status(api))
  assert.equal(await api.stop(), 0)
})

for (const password of [undefined, 'pw']) {
  test(`Redis hangs${password ? ' (with a password)' : ''}: nothing waits for ever, also many at once, and it comes back`, async (t) => {
    const redis = await startRedis(t, password ? [`requirepass ${password}`] : [], { admin: { password } })
    const api = await startApi(t, apiEnv(redis, { REDIS_COMMAND_TIMEOUT_MS: '300', ...(password && { REDIS_PASSWORD: password }) }))
    const people = await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const person = visitor()
        await person.logIn(api, `user-${i}`)
        return person
      }),
    )
    redis.pause()
    for (const reply of await Promise.all(people.map((person) => person.status(api)))) assertUnavailable(reply)
    await api.becomes(503, 'TIMEOUT')
    assertUnavailable(await visitor().logIn(api))
    assert.equal((await api.request('/healthz')).status, 200)
    redis.resume()
    await api.becomes(200)
    const replies = await Promise.all(people.map((person) => person.status(api)))
    assert.deepEqual(
      replies.map((reply) => reply.body.user?.username),
      people.map((_, i) => `user-${i}`),
      'each gets their own session',
    )
    const connections = async () => (await redis.send('CLIENT', 'LIST')).trim().split('\n').length
    await until('the given-up connections are closed: one for the API, one for the test', async () => (await connections()) === 2)
  })
}

test('a server that accepts and never answers is given up, and the real one is found', async (t) => {
  const held = []
  const hole = net.createServer((socket) => held.push(socket.on('error', () => {}))).listen(0, '127.0.0.1')
  await new Promise((resolve) => hole.once('listening', resolve))
  t.after(() => held.forEach((socket) => socket.destroy()))
  const { port } = hole.address()
  const env = apiEnv({ port }, { REDIS_COMMAND_TIMEOUT_MS: '300', REDIS_PASSWORD: 'pw' })
  const api = await startApi(t, env, { ready: false })
  await until('it tried', () => held.length > 0)
  hole.close() // takes no more, but the connections it has stay open
  await startRedis(t, ['requirepass pw'], { port, admin: { password: 'pw' } })
  await api.becomes(200)
  assert.equal((await visitor().logIn(api)).status, 200)
})

test('a connection that dies silently is noticed without any request', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis, { REDIS_COMMAND_TIMEOUT_MS: '300' }))
  redis.pause()
  await api.becomes(503, 'TIMEOUT')
  assert.equal(await api.stop(), 0, 'and the API can be stopped meanwhile')
})

test('wrong password: the reason says so, never the password, and the right one is taken up', async (t) => {
  const redis = await startRedis(t, ['requirepass the-right-password'], { admin: { password: 'the-right-password' } })
  const api = await startApi(t, apiEnv(redis, { REDIS_PASSWORD: 'a-wrong-password' }), { ready: false })
  const readyz = await api.becomes(503, 'WRONGPASS')
  assert.match(readyz, /REDIS_PASSWORD/)
  assertUnavailable(await visitor().logIn(api), 'WRONGPASS')
  assert.equal((await api.request('/healthz')).status, 200)
  await redis.send('CONFIG', 'SET', 'requirepass', 'a-wrong-password')
  await api.becomes(200)
  assert.doesNotMatch(api.log + readyz, /a-wrong-password/)
})

test('password missing, password not wanted, user without rights, database out of range', async (t) => {
  const locked = await startRedis(t, ['requirepass pw', 'user reader on >reader-pw ~* +get'], { admin: { password: 'pw' } })
  const open = await startRedis(t)
  const cases = [
    [locked, {}, 'NOAUTH'],
    [open, { REDIS_PASSWORD: 'unwanted' }, 'without any password configured'],
    [locked, { REDIS_USERNAME: 'reader', REDIS_PASSWORD: 'reader-pw' }, 'NOPERM'],
    [open, { REDIS_SESSION_DB: '99' }, 'DB index is out of range'],
  ]
  for (const [redis, settings, reason] of cases) {
    const api = await startApi(t, apiEnv(redis, settings), { ready: false })
    await api.becomes(503, reason)
    assertUnavailable(await visitor().status(api))
    assert.equal(await api.stop(), 0)
  }
})

test('a Redis that repeats the password in its error does not get it into our log', async (t) => {
  const redis = await startRedis(t, ['rename-command AUTH ""'])
  const api = await startApi(t, apiEnv(redis, { REDIS_PASSWORD: 'repeat-after-me' }), { ready: false })
  const readyz = await api.becomes(503, 'unknown command')
  assert.doesNotMatch(api.log + readyz, /repeat-after-me/)
})

test('an ACL user that may do only what the store needs', async (t) => {
  const rights = 'user app on >app-pw ~ctmd:sess:* +get +set +del +expire'
  const redis = await startRedis(t, ['requirepass pw', rights], { admin: { password: 'pw' } })
  const api = await startApi(t, apiEnv(redis, { REDIS_USERNAME: 'app', REDIS_PASSWORD: 'app-pw' }))
  const ada = visitor()
  assert.equal((await ada.logIn(api)).status, 200)
  assert.equal((await ada.status(api)).status, 200)
  assert.equal((await ada.visit(api, '/logout')).status, 200)
})

test('LOADING: not ready until the data is there, then the session is', async (t) => {
  const first = await startRedis(t)
  const before = await startApi(t, apiEnv(first))
  const ada = visitor()
  await ada.logIn(before, 'ada')
  for (let i = 0; i < 200; i++) await first.admin.set(`filler:${i}`, 'x'.repeat(2000))
  await first.send('CONFIG', 'SET', 'rdbcompression', 'no')
  await first.send('SAVE')
  await first.stop()

  const slow = ['key-load-delay 100000', 'loading-process-events-interval-bytes 1024']
  const loading = await startRedis(t, slow, { port: first.port, dir: first.dir, waitFor: 'Server initialized' })
  await before.becomes(503, 'LOADING')
  assertUnavailable(await ada.status(before), 'LOADING')
  await loading.send('CONFIG', 'SET', 'key-load-delay', '0')
  await before.becomes(200)
  assert.equal((await ada.status(before)).body.user.username, 'ada')
})

test('OOM: no login is lost in silence, whoever is logged in stays served, and logins come back', async (t) => {
  const redis = await startRedis(t, ['maxmemory-policy noeviction'])
  const api = await startApi(t, apiEnv(redis, { DASHBOARD_URL: '/dashboard' }))
  const ada = visitor()
  await ada.logIn(api, 'ada')
  await redis.send('CONFIG', 'SET', 'maxmemory', '1')
  const late = visitor()
  const refused = await late.logIn(api, 'late')
  assertUnavailable(refused, 'OOM')
  assert.equal(refused.headers.get('location'), null)
  assert.equal((await ada.status(api)).body.user.username, 'ada')
  const readyz = await api.request('/readyz')
  assert.equal(readyz.status, 200, 'reads go on, so the pod stays in its Service')
  assert.match((await readyz.json()).reason, /OOM/)
  assert.equal(await metric(api, 'session_store_errors_total{operation="set",reason="oom"}'), 1)

  await redis.send('CONFIG', 'SET', 'maxmemory', '0')
  assert.equal((await late.logIn(api, 'late')).status, 302)
  assert.equal((await late.status(api)).body.user.username, 'late')
  assert.equal((await (await api.request('/readyz')).json()).reason, undefined)
})

test('writes refused for lack of replicas: reads go on, from the start too', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const ada = visitor()
  await ada.logIn(api, 'ada')
  await redis.send('CONFIG', 'SET', 'min-replicas-to-write', '1')
  assertUnavailable(await visitor().logIn(api), 'NOREPLICAS')
  const second = await startApi(t, apiEnv(redis))
  for (const one of [api, second]) {
    assert.equal((await ada.status(one)).body.user.username, 'ada')
    await one.becomes(200, 'NOREPLICAS')
  }
  assertUnavailable(await ada.visit(api, '/logout', { method: 'POST' }), 'NOREPLICAS')
  await redis.send('CONFIG', 'SET', 'min-replicas-to-write', '0')
  await until('no reason left', async () => !(await (await api.request('/readyz')).json()).reason)
  assert.equal((await visitor().logIn(api)).status, 200)
})

test('READONLY: a demoted master is left, and taken again when it is master', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const ada = visitor()
  await ada.logIn(api, 'ada')
  await redis.send('REPLICAOF', '127.0.0.1', '1')
  assertUnavailable(await visitor().logIn(api), 'READONLY')
  await api.becomes(503, 'READONLY')
  await redis.send('REPLICAOF', 'NO', 'ONE')
  await api.becomes(200)
  assert.equal((await ada.status(api)).body.user.username, 'ada')
})

test('connections killed and refused (maxclients): back by itself', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  await redis.send('CONFIG', 'SET', 'maxclients', '1')
  await redis.send('CLIENT', 'KILL', 'SKIPME', 'yes')
  await api.becomes(503)
  assertUnavailable(await visitor().logIn(api))
  await redis.send('CONFIG', 'SET', 'maxclients', '100')
  await api.becomes(200)
})

test('a Redis that is down does not flood the log', async (t) => {
  const api = await startApi(t, apiEnv({ port: await freePort() }), { ready: false })
  await api.becomes(503, 'ECONNREFUSED')
  await Promise.all(Array.from({ length: 200 }, () => visitor().status(api)))
  await until(
    'several attempts',
    async () => (await metric(api, 'session_store_errors_total{operation="connect",reason="connection"}')) >= 4,
  )
  const lines = api.log.split('\n').filter((line) => /error/i.test(line))
  assert.ok(lines.length >= 1 && lines.length <= 3, api.log)
})

test('the one file in a bare Express app: a route that only assigns to the session does not lie either', async (t) => {
  const redis = await startRedis(t, ['maxmemory-policy noeviction'])
  const script = path.join(redis.dir, 'bare.js')
  fs.writeFileSync(
    script,
    `const express = require(${JSON.stringify(require.resolve('express'))})
     const { createSessionStore } = require(${JSON.stringify(require.resolve('../session-store'))})
     const app = express()
     const sessions = createSessionStore()
     app.get('/readyz', (req, res) => res.status(sessions.readiness().ready ? 200 : 503).end())
     app.use(sessions.middleware)
     app.post('/auth', (req, res) => { req.session.auth_info = { username: 'bare' }; res.redirect('/home') })
     app.post('/save', (req, res, next) => { req.session.n = 1; req.session.save((err) => (err ? next(err) : res.send('saved'))) })
     app.get('/auth_status', (req, res) => res.json(req.session.auth_info || {}))
     const server = app.listen(0, () => console.log('Listening on port ' + server.address().port))`,
  )
  const api = await startApi(t, { ...apiEnv(redis), API_PORT: '' }, { script })
  const ada = visitor()
  assert.equal((await ada.logIn(api)).status, 302)
  assert.equal((await ada.status(api)).body.username, 'bare')
  await redis.send('CONFIG', 'SET', 'maxmemory', '1')
  const refused = await visitor().logIn(api)
  assertUnavailable(refused, 'OOM')
  assert.equal(refused.headers.get('location'), null)
  const explicit = await visitor().visit(api, '/save', { method: 'POST' })
  assertUnavailable(explicit)
  assert.equal((await ada.status(api)).body.username, 'bare')
})

test('under load while Redis is killed and hangs: 200 or 503, nobody is logged out, nobody sees another', async (t) => {
  const durable = ['appendonly yes', 'appendfsync always']
  let redis = await startRedis(t, durable)
  const api = await startApi(t, apiEnv(redis, { REDIS_COMMAND_TIMEOUT_MS: '300' }))
  let over = false
  let served = 0
  const people = Array.from({ length: 20 }, async (_, i) => {
    const person = visitor()
    let loggedIn = false
    while (!over) {
      const reply = loggedIn ? await person.status(api) : await person.logIn(api, `user-${i}`)
      if (reply.status !== 503) {
        assert.equal(reply.status, 200)
        assert.equal(reply.body.user.username, `user-${i}`)
        loggedIn = true
        served++
      }
      await new Promise((resolve) => setTimeout(resolve, 10)) // a person reads, and the test's own loop breathes
    }
  })
  const load = Promise.all(people)
  load.catch(() => {})
  const servedAgain = async () => {
    const target = served + 100
    await Promise.race([load, until('people are served', () => served > target)])
  }
  for (let round = 0; round < 2; round++) {
    await servedAgain()
    await redis.stop()
    await api.becomes(503)
    redis = await startRedis(t, durable, { port: redis.port, dir: redis.dir })
    await servedAgain()
    redis.pause()
    await api.becomes(503)
    redis.resume()
  }
  await servedAgain()
  over = true
  await load
  assert.equal(await metric(api, 'session_store_sessions_created_total'), 20)
  assert.equal(await api.stop(), 0)
})
