'use strict'

const { test } = require('node:test')
const assert = require('node:assert/strict')
const http = require('node:http')
const { apiEnv, startApi, startRedis, until, visitor } = require('./helpers')

/** A REDCap that answers only when told. */
async function slowRedcap(t) {
  const waiting = []
  const server = http.createServer((_req, res) => waiting.push(res))
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return {
    env: { AUTH_ENV: 'production', REDCAP_AUTH_URL: `http://127.0.0.1:${server.address().port}/` },
    asked: () => until('REDCap is asked', () => waiting.length),
    answer: () => waiting.forEach((res) => res.end('{"username":"ada"}')),
  }
}

const submitCode = (api, who) => who.visit(api, '/auth', { method: 'POST', body: new URLSearchParams({ code: 'x' }) })

const refuses = (api) =>
  until('new connections are refused', () =>
    api.request('/healthz', { headers: { connection: 'close' } }).then(
      (reply) => reply.text().then(() => false),
      () => true,
    ),
  )

test('SIGTERM: not ready at once, still serving during the delay, then exit 0', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis, { SHUTDOWN_DELAY_MS: '1500' }))
  const ada = visitor()
  await ada.logIn(api, 'ada')
  api.child.kill('SIGTERM')
  await api.becomes(503, 'shutting down')
  const during = await ada.status(api)
  assert.equal(during.body.user.username, 'ada')
  assert.equal(during.headers.get('connection'), 'close')
  assert.equal(await api.exited(), 0)
  await until('Redis has only the test left', async () => (await redis.send('CLIENT', 'LIST')).trim().split('\n').length === 1)
})

test('SIGTERM: a login in flight is finished and stored, no other is taken', async (t) => {
  const [redis, redcap] = [await startRedis(t), await slowRedcap(t)]
  const api = await startApi(t, apiEnv(redis, redcap.env))
  const ada = visitor()
  const login = submitCode(api, ada)
  await redcap.asked()
  api.child.kill('SIGTERM')
  await refuses(api)
  redcap.answer()
  assert.equal((await login).body.user.username, 'ada')
  assert.equal(await api.exited(), 0)
  const next = await startApi(t, apiEnv(redis))
  assert.equal((await ada.status(next)).body.user.username, 'ada')
})

test('SIGTERM: a request that never ends does not hold the exit up, nor does a hung Redis', async (t) => {
  const [redis, redcap] = [await startRedis(t), await slowRedcap(t)]
  const api = await startApi(t, apiEnv(redis, { ...redcap.env, SHUTDOWN_TIMEOUT_MS: '300' }))
  const login = submitCode(api, visitor()).catch((err) => err)
  await redcap.asked()
  redis.pause()
  assert.equal(await api.stop(), 0)
  assert.ok((await login) instanceof Error)
})

test('kill -9 loses no session', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const ada = visitor()
  await ada.logIn(api, 'ada')
  api.child.kill('SIGKILL')
  await api.exited()
  const next = await startApi(t, apiEnv(redis))
  assert.equal((await ada.status(next)).body.user.username, 'ada')
})
