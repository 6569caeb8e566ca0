'use strict'

const { test } = require('node:test')
const assert = require('node:assert/strict')
const crypto = require('node:crypto')
const fs = require('node:fs')
const path = require('node:path')
const promClient = require('prom-client')
const { createSessionStore } = require('../session-store')
const { apiEnv, makeCa, metric, startApi, startProxy, startRedis, tempDir, until, visitor } = require('./helpers')

const trusting = (ca) => ({ admin: { socket: { tls: true, ca: fs.readFileSync(ca), checkServerIdentity: () => undefined } } })

test('TLS with the right CA; plaintext to a TLS Redis and TLS to a plaintext Redis are refused', async (t) => {
  const { ca, conf } = makeCa(tempDir(t), 'right')
  const redis = await startRedis(t, conf, trusting(ca))
  const api = await startApi(t, apiEnv(redis, { REDIS_TLS: 'true', REDIS_TLS_CA: ca }))
  const ada = visitor()
  await ada.logIn(api, 'ada')
  assert.equal((await ada.status(api)).body.user.username, 'ada')

  const plaintext = await startApi(t, apiEnv(redis), { ready: false })
  await plaintext.becomes(503, 'CONNECTION')
  assert.equal((await ada.status(plaintext)).status, 503)

  const open = await startRedis(t)
  const mismatch = await startApi(t, apiEnv(open, { REDIS_TLS: 'true', REDIS_TLS_CA: ca, REDIS_CONNECT_TIMEOUT_MS: '300' }), {
    ready: false,
  })
  await mismatch.becomes(503, 'is this Redis without TLS?')
  assert.equal((await visitor().logIn(mismatch)).status, 503)
  assert.equal(await open.admin.dbSize(), 0)
})

test('a CA that did not sign is refused; the renewed CA file is taken up without a restart', async (t) => {
  const dir = tempDir(t)
  const right = makeCa(dir, 'right')
  const wrong = makeCa(dir, 'wrong')
  const bundle = path.join(dir, 'bundle.pem')
  fs.copyFileSync(wrong.ca, bundle)
  const redis = await startRedis(t, right.conf, trusting(right.ca))
  const api = await startApi(t, apiEnv(redis, { REDIS_TLS: 'true', REDIS_TLS_CA: bundle }), { ready: false })
  await api.becomes(503, 'TLS')
  assert.equal((await visitor().logIn(api)).status, 503)
  assert.doesNotMatch(api.log, /Connected to Redis/)

  fs.rmSync(bundle)
  await api.becomes(503, 'ENOENT')
  fs.writeFileSync(bundle, fs.readFileSync(wrong.ca, 'utf8') + fs.readFileSync(right.ca, 'utf8'))
  await api.becomes(200)
  assert.equal((await visitor().logIn(api)).status, 200)
})

test('without REDIS_TLS_CA only the public CAs are trusted', async (t) => {
  const { ca, conf } = makeCa(tempDir(t), 'private')
  const redis = await startRedis(t, conf, trusting(ca))
  const api = await startApi(t, apiEnv(redis, { REDIS_TLS: 'true' }), { ready: false })
  await api.becomes(503, 'TLS')
})

test('the name in the certificate must be the host, or REDIS_TLS_SERVERNAME', async (t) => {
  const { ca, conf } = makeCa(tempDir(t), 'named', 'DNS:redis.session-store.svc')
  const redis = await startRedis(t, conf, trusting(ca))
  const tls = { REDIS_TLS: 'true', REDIS_TLS_CA: ca }
  const api = await startApi(t, apiEnv(redis, tls), { ready: false })
  await api.becomes(503, 'TLS')
  const named = await startApi(t, apiEnv(redis, { ...tls, REDIS_TLS_SERVERNAME: 'redis.session-store.svc' }))
  assert.equal((await visitor().logIn(named)).status, 200)
})

test('TLS handshake that hangs: not ready, bounded, and back by itself', async (t) => {
  const { ca, conf } = makeCa(tempDir(t), 'right')
  const redis = await startRedis(t, conf, trusting(ca))
  const short = { REDIS_COMMAND_TIMEOUT_MS: '300', REDIS_CONNECT_TIMEOUT_MS: '500' }
  const api = await startApi(t, apiEnv(redis, { REDIS_TLS: 'true', REDIS_TLS_CA: ca, ...short }))
  const ada = visitor()
  await ada.logIn(api)
  redis.pause()
  assert.equal((await ada.status(api)).status, 503)
  await api.becomes(503, 'TIMEOUT')
  redis.resume()
  await api.becomes(200)
  assert.equal((await ada.status(api)).status, 200)
})

test('TLS through a proxy that dies in silence, then has no master for a while: no request fails, no word of certificates', async (t) => {
  const { ca, conf } = makeCa(tempDir(t), 'right')
  const redis = await startRedis(t, conf, trusting(ca))
  const proxy = await startProxy(t, () => redis.port)
  const patient = { REDIS_COMMAND_TIMEOUT_MS: '28000', REDIS_CONNECT_TIMEOUT_MS: '28000', SESSION_REQUEST_BUDGET_MS: '25000' }
  const api = await startApi(t, apiEnv(proxy, { REDIS_TLS: 'true', REDIS_TLS_CA: ca, ...patient }))
  const ada = visitor()
  await ada.logIn(api, 'ada')
  proxy.freeze()
  assert.equal((await ada.status(api)).body.user.username, 'ada')
  proxy.route = () => 'close'
  proxy.cut()
  const status = ada.status(api)
  const failures = () => metric(api, 'session_store_errors_total{operation="connect",reason="connection"}')
  await until('it tries to connect', async () => (await failures()) >= 2)
  proxy.route = () => redis.port
  assert.equal((await status).body.user.username, 'ada')
  assert.doesNotMatch(api.log, /TLS:/)
})

test('the end of the certificate that Redis shows is a metric; after a renewal the new one, though the connection stays', async (t) => {
  const dir = tempDir(t)
  const [old, renewed] = [makeCa(dir, 'old'), makeCa(dir, 'renewed', 'IP:127.0.0.1', '30')]
  const bundle = path.join(dir, 'bundle.pem')
  fs.writeFileSync(bundle, fs.readFileSync(old.ca, 'utf8') + fs.readFileSync(renewed.ca, 'utf8'))
  const redis = await startRedis(t, old.conf, trusting(bundle))
  const env = apiEnv(redis, { REDIS_TLS: 'true', REDIS_TLS_CA: bundle })

  const register = new promClient.Registry()
  t.mock.timers.enable({ apis: ['setInterval'] })
  const sessions = createSessionStore({ env, promClient, register, log: { info() {}, error() {} } })
  t.after(() => sessions.close())
  const expiry = async () =>
    Number(/^session_store_certificate_expiry_timestamp_seconds (\d+)/m.exec(await register.metrics())?.[1] ?? 0)
  const endOf = (name) => Date.parse(new crypto.X509Certificate(fs.readFileSync(path.join(dir, `${name}-server.crt`))).validTo) / 1000
  await until('connected', () => sessions.client)
  const { client } = sessions
  assert.equal(await expiry(), endOf('old'))

  await redis.admin.configSet({ 'tls-cert-file': `${dir}/renewed-server.crt`, 'tls-key-file': `${dir}/renewed-server.key` })
  t.mock.timers.tick(3600000)
  await until('the new one is seen', async () => (await expiry()) === endOf('renewed'))
  assert.equal(sessions.client, client)
})

test('without TLS there is no end of a certificate', async (t) => {
  const api = await startApi(t, apiEnv(await startRedis(t)))
  assert.doesNotMatch(await (await api.request('/metrics')).text(), /^session_store_certificate_expiry/m)
})
