'use strict'

const { test } = require('node:test')
const assert = require('node:assert/strict')
const http = require('node:http')
const os = require('node:os')
const { apiEnv, metric, startApi, startRedis, until, visitor } = require('./helpers')

test('login, status and logout', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const ada = visitor()

  const before = await ada.status(api)
  assert.equal(before.status, 401)
  assert.deepEqual(before.body, { authenticated: false })
  assert.equal(await redis.admin.dbSize(), 0, 'a visit without login stores nothing')

  const login = await ada.logIn(api, 'ada')
  assert.equal(login.status, 200)
  assert.equal(login.body.authenticated, true)
  assert.equal(login.body.user.username, 'ada')
  const status = await ada.status(api)
  assert.equal(status.status, 200)
  assert.deepEqual(status.body, login.body)
  assert.equal(status.headers.get('cache-control'), 'no-store')

  const logout = await ada.visit(api, '/logout', { method: 'POST' })
  assert.equal(logout.status, 200)
  assert.match(logout.setCookie, /connect\.sid=;.*Expires=Thu, 01 Jan 1970/)
  assert.equal(await redis.admin.dbSize(), 0)
})

test('the demo user, GET /logout, and the pod name on every reply', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const demo = visitor()
  assert.equal((await demo.logIn(api)).body.user.username, 'demo')
  assert.equal((await demo.visit(api, '/logout')).status, 200)
  for (const target of ['/healthz', '/readyz', '/metrics', '/auth_status', '/auth', '/nowhere']) {
    const reply = await api.request(target)
    assert.equal(reply.headers.get('x-served-by'), os.hostname(), target)
  }
  assert.equal((await api.request('/nowhere')).status, 404)
})

test('a logged-out cookie is worth nothing, also when it is sent again', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const ada = visitor()
  await ada.logIn(api)
  const stolen = visitor()
  stolen.cookie = ada.cookie
  await ada.visit(api, '/logout')
  assert.equal((await stolen.status(api)).status, 401)
})

test('login gives a new session id and ends the old session, so a planted cookie is worth nothing', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const victim = visitor()
  await victim.logIn(api, 'mallory')
  const planted = visitor()
  planted.cookie = victim.cookie
  await victim.logIn(api, 'ada')
  assert.notEqual(victim.cookie, planted.cookie)
  assert.equal((await planted.status(api)).status, 401)
  assert.equal((await victim.status(api)).body.user.username, 'ada')
  assert.equal(await redis.admin.dbSize(), 1)
})

test('what is stored: JSON under the prefix, with the TTL, renewed on use', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const ada = visitor()
  await ada.logIn(api, 'ada')
  const key = `ctmd:sess:${ada.sessionId}`
  assert.deepEqual(await redis.admin.keys('*'), [key])
  const stored = JSON.parse(await redis.admin.get(key))
  assert.equal(stored.auth_info.username, 'ada')
  assert.ok((await redis.admin.ttl(key)) > 43000)
  await redis.admin.expire(key, 100)
  await ada.status(api)
  await until('use renews the TTL', async () => (await redis.admin.ttl(key)) > 43000)
})

test('a reply waits for the session to be read, not for its life to be extended', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const ada = visitor()
  await ada.logIn(api, 'ada')
  const key = `ctmd:sess:${ada.sessionId}`
  await redis.admin.expire(key, 100)
  await redis.admin.sendCommand(['CLIENT', 'PAUSE', '60000', 'WRITE'])
  assert.equal((await ada.status(api)).status, 200)
  assert.ok((await redis.admin.ttl(key)) <= 100)
  await redis.admin.sendCommand(['CLIENT', 'UNPAUSE'])
  await until('the TTL is renewed', async () => (await redis.admin.ttl(key)) > 43000)
})

test('prefix, TTL, cookie name and database are settings', async (t) => {
  const redis = await startRedis(t)
  const settings = { SESSION_PREFIX: 'other:', SESSION_TTL_SECONDS: '60', SESSION_COOKIE_NAME: 'sid', REDIS_SESSION_DB: '2' }
  const api = await startApi(t, apiEnv(redis, settings))
  const ada = visitor()
  assert.match((await ada.logIn(api)).setCookie, /^sid=/)
  assert.equal(await redis.admin.dbSize(), 0)
  await redis.admin.select(2)
  assert.deepEqual(await redis.admin.keys('*'), [`other:${ada.sessionId}`])
  const ttl = await redis.admin.ttl(`other:${ada.sessionId}`)
  assert.ok(ttl > 0 && ttl <= 60)
})

test('a session ends when its TTL is over', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis, { SESSION_TTL_SECONDS: '1' }))
  const ada = visitor()
  await ada.logIn(api)
  assert.equal((await ada.status(api)).status, 200)
  await until('the key is gone', async () => (await redis.admin.dbSize()) === 0)
  assert.equal((await ada.status(api)).status, 401)
})

test('two API processes share a session, and it survives their restart', async (t) => {
  const redis = await startRedis(t)
  const [one, two] = await Promise.all([startApi(t, apiEnv(redis)), startApi(t, apiEnv(redis))])
  const ada = visitor()
  await ada.logIn(one, 'ada')
  assert.equal((await ada.status(two)).body.user.username, 'ada')
  assert.deepEqual(await Promise.all([one.stop(), two.stop()]), [0, 0])
  const three = await startApi(t, apiEnv(redis))
  assert.equal((await ada.status(three)).body.user.username, 'ada')
})

test('secret rotation: the first secret signs, all verify', async (t) => {
  const redis = await startRedis(t)
  const withSecrets = (list) => startApi(t, apiEnv(redis, { API_SESSION_SECRET: list }))
  const [before, during, after] = await Promise.all([withSecrets('secret-a'), withSecrets('secret-b, secret-a'), withSecrets('secret-b')])
  const [early, late] = [visitor(), visitor()]
  await early.logIn(before)
  assert.equal((await early.status(during)).status, 200, 'old cookies go on')
  await late.logIn(during)
  assert.equal((await late.status(after)).status, 200, 'new cookies are signed by the new secret')
  assert.equal((await late.status(before)).status, 401)
  assert.equal((await early.status(after)).status, 401)
})

test('cookie flags by default and by setting', async (t) => {
  const redis = await startRedis(t)
  const plain = await startApi(t, apiEnv(redis))
  const flags = (await visitor().logIn(plain)).setCookie
  assert.match(flags, /; HttpOnly/)
  assert.match(flags, /; SameSite=Lax/)
  assert.match(flags, /; Path=\//)
  assert.doesNotMatch(flags, /Secure/)
  const strict = await startApi(t, apiEnv(redis, { SESSION_COOKIE_SAMESITE: 'strict' }))
  assert.match((await visitor().logIn(strict)).setCookie, /; SameSite=Strict/)
})

test('in production the cookie is for HTTPS, which a trusted proxy may vouch for', async (t) => {
  const redis = await startRedis(t)
  const production = { NODE_ENV: 'production', API_SESSION_SECRET: 'a-long-secret-for-production' }
  const https = { 'x-forwarded-proto': 'https' }

  const direct = await startApi(t, apiEnv(redis, production))
  assert.equal((await visitor(https).logIn(direct)).setCookie, null, 'nobody is trusted unless told')
  await until('the log says why', () => direct.log.includes('Session cookie NOT sent'))
  assert.match(direct.log, /TRUST_PROXY/)
  assert.doesNotMatch(direct.log, /MemoryStore/)

  const behind = await startApi(t, apiEnv(redis, { ...production, TRUST_PROXY: '1' }))
  const ada = visitor(https)
  const login = await ada.logIn(behind)
  assert.match(login.setCookie, /; Secure/)
  assert.equal((await ada.status(behind)).status, 200)
  assert.equal((await visitor().logIn(behind)).setCookie, null, 'plain HTTP gets no secure cookie')

  const lax = await startApi(t, apiEnv(redis, { ...production, SESSION_COOKIE_SECURE: 'false' }))
  assert.doesNotMatch((await visitor().logIn(lax)).setCookie, /Secure/)
})

test('SESSION_STORE=memory works without Redis and says so, loudly', async (t) => {
  const memory = {
    SESSION_STORE: 'memory',
    NODE_ENV: 'production',
    SESSION_COOKIE_SECURE: 'false',
    API_SESSION_SECRET: 'a-long-secret-for-production',
  }
  const api = await startApi(t, apiEnv(null, { ...memory, REDIS_PORT: 'broken' }))
  const ada = visitor()
  await ada.logIn(api, 'ada')
  assert.equal((await ada.status(api)).body.user.username, 'ada')
  assert.match(api.log, /connect\.session\(\) MemoryStore is not/)
  assert.match(api.log, /SESSION_STORE=memory: sessions are NOT in Redis/)
  assert.equal(await metric(api, 'session_store_sessions_created_total'), 1)
  assert.equal(await api.stop(), 0)
})

test('DASHBOARD_URL: the login leads there, with the session already stored', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis, { DASHBOARD_URL: 'https://dashboard.example/home' }))
  const ada = visitor()
  const login = await ada.logIn(api)
  assert.equal(login.status, 302)
  assert.equal(login.headers.get('location'), 'https://dashboard.example/home')
  assert.equal((await ada.status(api)).status, 200)
})

test('bad logins are answered with 400', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const post = (body) => visitor().visit(api, '/auth', { method: 'POST', body, headers: { 'content-type': 'application/json' } })
  for (const body of ['{"username": 5}', '{"username": ""}', '{"username": "<b>"}', '{broken']) {
    const reply = await post(body)
    assert.equal(reply.status, 400, body)
    assert.ok(reply.body.error)
  }
  assert.equal(await redis.admin.dbSize(), 0)
})

test('AUTH_ENV=production: REDCap verifies the code', async (t) => {
  const redis = await startRedis(t)
  const asked = []
  const redcap = http.createServer((req, res) => {
    const code = new URL(req.url, 'http://redcap').searchParams.get('code')
    asked.push(code)
    if (code === 'refused') res.writeHead(403)
    if (code === 'moved') res.writeHead(302, { location: '/elsewhere' })
    res.end(code === 'text' ? '1' : JSON.stringify({ username: 'ada', email: 'ada@example.org' }))
  })
  await new Promise((resolve) => redcap.listen(0, '127.0.0.1', resolve))
  t.after(() => redcap.close())
  const REDCAP_AUTH_URL = `http://127.0.0.1:${redcap.address().port}/verify`
  const api = await startApi(t, apiEnv(redis, { AUTH_ENV: 'production', REDCAP_AUTH_URL }))
  const form = (who, code) => who.visit(api, '/auth', { method: 'POST', body: new URLSearchParams({ code }) })

  const ada = visitor()
  const login = await form(ada, 'good & odd=code')
  assert.deepEqual(login.body, { authenticated: true, user: { username: 'ada', email: 'ada@example.org' } })
  assert.deepEqual((await ada.status(api)).body, login.body)
  assert.equal((await form(ada, 'good & odd=code')).status, 200)
  assert.deepEqual(asked, ['good & odd=code'], 'a form sent twice does not use the code twice')

  assert.equal((await form(visitor(), 'text')).status, 200)
  assert.equal((await form(visitor(), 'refused')).status, 403)
  assert.equal((await form(visitor(), 'moved')).status, 502)
  assert.equal((await form(visitor(), 'x'.repeat(513))).status, 400)
  assert.equal((await form(visitor(), 'a\nb')).status, 400)
  assert.equal((await visitor().logIn(api)).status, 400, 'no code')
  const stranger = visitor()
  assert.equal((await stranger.status(api)).status, 401)

  redcap.close()
  redcap.closeAllConnections()
  assert.equal((await form(visitor(), 'late')).status, 502)
})

test('a stored record that is no session counts as none and a login replaces it', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const ada = visitor()
  await ada.logIn(api)
  for (const junk of ['{"cut off', '5', '{}', 'null']) {
    await redis.admin.set(`ctmd:sess:${ada.sessionId}`, junk)
    assert.equal((await ada.status(api)).status, 401, junk)
  }
  assert.equal(await metric(api, 'session_store_errors_total{operation="get",reason="corrupt"}'), 4)
  assert.equal((await ada.logIn(api)).status, 200)
})

test("the plan's After snippet logs in with host, port and password only", async (t) => {
  const redis = await startRedis(t, ['requirepass plan-password'], { admin: { password: 'plan-password' } })
  const env = { ...apiEnv(redis), REDIS_PASSWORD: 'plan-password' }
  const plan = await startApi(t, env, { script: 'examples/plan-after.js', ready: false })
  await until('connected', () => plan.log.includes('Connected to Redis for session storage'))
  const ada = visitor()
  await ada.logIn(plan)
  assert.deepEqual(await redis.admin.keys('*'), [`ctmd:sess:${ada.sessionId}`])
  const api = await startApi(t, env)
  assert.equal((await ada.status(api)).body.user.username, 'demo', 'the API reads what the snippet wrote')
})
