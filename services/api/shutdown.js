'use strict'

const { setTimeout: sleep } = require('node:timers/promises')

/**
 * On SIGTERM or SIGINT: not ready at once, serve on for the delay (endpoints learn of it late), accept no more, let
 * requests in flight finish, leave Redis, exit 0. After the timeout what still runs is cut off.
 */
function drainOnSignal(server, sessions, lifecycle, { shutdownDelayMs, shutdownTimeoutMs }) {
  async function drain(signal) {
    if (lifecycle.draining) return
    lifecycle.draining = true
    console.log(`${signal}: shutting down`)
    await sleep(shutdownDelayMs)
    const closed = new Promise((resolve) => server.close(resolve))
    // A connection becomes idle only when its reply is out, so close() alone would wait for every keep-alive.
    const sweep = setInterval(() => server.closeIdleConnections(), 50)
    await Promise.race([closed, sleep(shutdownTimeoutMs)])
    clearInterval(sweep)
    server.closeAllConnections()
    await Promise.race([sessions.close(), sleep(shutdownTimeoutMs)])
    console.log('Bye')
    process.exit(0)
  }
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => drain(signal))
}

module.exports = { drainOnSignal }
