'use strict'

// SESSION_WAIT_REPLICAS: a login is answered when a replica has the session, or not at all.

const { test } = require('node:test')
const assert = require('node:assert/strict')
const { apiEnv, metric, startApi, startPair, startRedis, until, visitor } = require('./helpers')

const durable = (redis, extra) =>
  apiEnv(redis, { SESSION_WAIT_REPLICAS: '1', SESSION_WAIT_TIMEOUT_MS: '100', SESSION_REQUEST_BUDGET_MS: '25000', ...extra })
const unacknowledged = (api) => metric(api, 'session_store_wait_replicas_timeouts_total')
const calls = async (redis, command) =>
  Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(await redis.send('INFO', 'commandstats'))?.[1] ?? 0)

test('a login that is answered is on the replica already; nothing else waits', async (t) => {
  const { redis, replica } = await startPair(t)
  const api = await startApi(t, durable(redis, { SESSION_WAIT_TIMEOUT_MS: '10000' }))
  for (let i = 0; i < 5; i++) {
    const ada = visitor()
    assert.equal((await ada.logIn(api, 'ada')).status, 200)
    assert.equal(await replica.admin.exists(`ctmd:sess:${ada.sessionId}`), 1)
    assert.equal((await ada.logIn(api, 'eva')).status, 200, 'a login over a login is a new session')
    assert.equal(await replica.admin.exists(`ctmd:sess:${ada.sessionId}`), 1)
    assert.equal((await ada.status(api)).status, 200)
  }
  assert.equal(await calls(redis, 'wait'), 10)
  assert.equal(await unacknowledged(api), 0)
})

test('the replica does not answer: 503 when the budget is used up, counted, no cookie; reads go on meanwhile', async (t) => {
  const { redis, replica } = await startPair(t)
  const api = await startApi(t, durable(redis, { SESSION_REQUEST_BUDGET_MS: '1000' }))
  const ada = visitor()
  assert.equal((await ada.logIn(api, 'ada')).status, 200)
  replica.pause()
  let answered = false
  const login = visitor().logIn(api)
  login.finally(() => (answered = true))
  await until('the login waits', async () => (await redis.send('CLIENT', 'LIST')).includes('cmd=wait'))
  assert.equal((await ada.status(api)).status, 200)
  assert.equal(answered, false)
  const refused = await login
  assert.equal(refused.status, 503)
  assert.equal(refused.body.reason, 'NOREPLICAS')
  assert.equal(refused.setCookie, null)
  assert.ok((await unacknowledged(api)) >= 2, 'tried again within the budget')
  assert.equal(await metric(api, 'session_store_sessions_created_total'), 1)
  replica.resume()
  assert.equal((await visitor().logIn(api)).status, 200)
})

test('a login waits for the replica to come back, and one WAIT serves many logins', async (t) => {
  const { redis, replica } = await startPair(t)
  const api = await startApi(t, durable(redis))
  replica.pause()
  const people = Array.from({ length: 40 }, () => visitor())
  const logins = Promise.all(people.map((person) => person.logIn(api)))
  await until('all have waited', async () => (await unacknowledged(api)) >= people.length)
  assert.ok((await calls(redis, 'wait')) < people.length)
  replica.resume()
  assert.ok((await logins).every((reply) => reply.status === 200))
  for (const person of people) assert.equal(await replica.admin.exists(`ctmd:sess:${person.sessionId}`), 1)
})

test('the connection is lost between SET and WAIT: the SET is repeated on the next one', async (t) => {
  const { redis, replica } = await startPair(t)
  const api = await startApi(t, durable(redis, { SESSION_WAIT_TIMEOUT_MS: '10000' }))
  replica.pause()
  const ada = visitor()
  const login = ada.logIn(api, 'ada')
  const waiting = await until('it waits', async () => /id=(\d+) .*cmd=wait/.exec(await redis.send('CLIENT', 'LIST'))?.[1])
  await redis.send('CLIENT', 'KILL', 'ID', waiting)
  await until('it waits again', async () => (await redis.send('CLIENT', 'LIST')).includes('cmd=wait'))
  assert.equal(await calls(redis, 'set'), 2)
  replica.resume()
  assert.equal((await login).status, 200)
  assert.equal(await replica.admin.exists(`ctmd:sess:${ada.sessionId}`), 1)
})

test('the master is demoted while a login waits: the login is made on the new master', async (t) => {
  const { redis, replica } = await startPair(t)
  const api = await startApi(t, durable(redis, { SESSION_WAIT_TIMEOUT_MS: '10000' }))
  replica.pause()
  const login = visitor().logIn(api)
  await until('it waits', async () => (await redis.send('CLIENT', 'LIST')).includes('cmd=wait'))
  await redis.send('REPLICAOF', '127.0.0.1', '1')
  await until('it is refused', () => metric(api, 'session_store_errors_total{operation="connect",reason="readonly"}'))
  await redis.send('REPLICAOF', 'NO', 'ONE')
  replica.resume()
  assert.equal((await login).status, 200)
})

test('a second connection is made for WAIT only where it is asked for', async (t) => {
  const redis = await startRedis(t)
  const connections = async () => (await redis.send('CLIENT', 'LIST')).trim().split('\n').length - 1
  const plain = await startApi(t, apiEnv(redis))
  assert.equal(await connections(), 1)
  await plain.stop()
  const api = await startApi(t, durable(redis))
  await until('two connections', async () => (await connections()) === 2)
  assert.equal(await api.stop(), 0)
  await until('none is left', async () => (await connections()) === 0)
})
