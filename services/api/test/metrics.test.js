'use strict'

const { test } = require('node:test')
const assert = require('node:assert/strict')
const { apiEnv, metric, startApi, startRedis, visitor } = require('./helpers')

test('sessions, latency, connection, requests and process are measured', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const [ada, bob] = [visitor(), visitor()]
  await ada.status(api)
  await ada.logIn(api, 'ada')
  await bob.logIn(api, 'bob')
  await ada.status(api)
  await ada.visit(api, '/logout')

  const value = (series) => metric(api, series)
  assert.equal(await value('session_store_sessions_created_total'), 2, 'one for each login, none for a visit')
  assert.equal(await value('session_store_connected'), 1)
  assert.equal(await value('session_store_operation_duration_seconds_count{operation="set"}'), 2, 'a login writes once')
  assert.equal(await value('session_store_operation_duration_seconds_count{operation="get"}'), 2)
  assert.equal(await value('session_store_operation_duration_seconds_count{operation="touch"}'), 1)
  assert.equal(await value('session_store_operation_duration_seconds_count{operation="destroy"}'), 1, 'a logout; nothing before a login')
  assert.equal(await value('http_request_duration_seconds_count{method="POST",route="/auth",status="200"}'), 2)
  assert.equal(await value('http_request_duration_seconds_count{method="GET",route="/auth_status",status="401"}'), 1)
  assert.ok((await value('process_resident_memory_bytes')) > 0)
  const text = await (await api.request('/metrics')).text()
  assert.doesNotMatch(text, /session_store_errors_total{/)
})

test('strange paths and methods make no new time series', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  for (const target of ['/a', '/b/c?d=1', '/auth/x', '/%2e%2e']) await api.request(target)
  await api.request('/auth', { method: 'PROPFIND' })
  const routes = (await (await api.request('/metrics')).text()).match(/http_request_duration_seconds_count{[^}]*status="404"}/g)
  assert.deepEqual(routes.sort(), [
    'http_request_duration_seconds_count{method="GET",route="other",status="404"}',
    'http_request_duration_seconds_count{method="other",route="other",status="404"}',
  ])
})

test('health, readiness and metrics never touch the session store', async (t) => {
  const redis = await startRedis(t)
  const api = await startApi(t, apiEnv(redis))
  const ada = visitor()
  await ada.logIn(api, 'ada')
  for (const target of ['/healthz', '/readyz', '/metrics', '/nowhere']) await ada.visit(api, target)
  assert.equal(await metric(api, 'session_store_operation_duration_seconds_count{operation="get"}'), 0)
  assert.equal(await metric(api, 'session_store_operation_duration_seconds_count{operation="touch"}'), 0)
})
