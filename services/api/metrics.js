'use strict'

const promClient = require('prom-client')

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

/**
 * A registry with the process's own metrics and the request times.
 * @returns {{promClient: object, register: object, middleware: Function, handler: Function}}
 */
function createMetrics() {
  const register = new promClient.Registry()
  promClient.collectDefaultMetrics({ register })
  const duration = new promClient.Histogram({
    name: 'http_request_duration_seconds',
    help: 'Time from request to the end of the reply',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    registers: [register],
  })

  function middleware(req, res, next) {
    const done = duration.startTimer()
    res.once('finish', () => {
      // The route's pattern, never the path: whoever scans us must not make new time series.
      const method = METHODS.has(req.method) ? req.method : 'other'
      done({ method, route: req.route ? req.route.path : 'other', status: res.statusCode })
    })
    next()
  }

  async function handler(_req, res, next) {
    try {
      res.type(register.contentType).send(await register.metrics())
    } catch (err) {
      next(err)
    }
  }

  return { promClient, register, middleware, handler }
}

module.exports = { createMetrics }
