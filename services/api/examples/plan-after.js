// The plan's "After" snippet as its reader has it, with the password line switched on, and the smallest login around it.
// It proves that plain client code (host, port, password) works against a stack with TLS off:
//   REDIS_HOST=… REDIS_PASSWORD=… API_SESSION_SECRET=… node examples/plan-after.js
const express = require('express')
const app = express()

const session = require('express-session')
const RedisStore = require('connect-redis').default
const { createClient } = require('redis')

// Redis client configuration
const redisClient = createClient({
  socket: {
    host: process.env.REDIS_HOST || 'redis',
    port: process.env.REDIS_PORT || 6379,
  },
  // Optional: Add password if Redis is secured
  password: process.env.REDIS_PASSWORD,
})

redisClient.connect().catch(console.error)

redisClient.on('error', (err) => {
  console.error('Redis Client Error', err)
})

redisClient.on('connect', () => {
  console.log('Connected to Redis for session storage')
})

// Session configuration with Redis store
app.use(
  session({
    store: new RedisStore({
      client: redisClient,
      prefix: 'ctmd:sess:',  // Namespace for session keys
      ttl: 12 * 60 * 60,      // 12 hours in seconds (matches cookie expiration)
    }),
    secret: process.env.API_SESSION_SECRET,
    resave: false,
    saveUninitialized: false,  // Changed to false for better performance
    cookie: {
      maxAge: 12 * 60 * 60 * 1000,  // 12 hours in milliseconds
      secure: process.env.NODE_ENV === 'production',  // HTTPS only in production
      httpOnly: true,
      sameSite: 'lax',
    },
  })
)

// Not from the plan: what is needed to try it
app.post('/auth', (req, res) => {
  req.session.auth_info = { username: 'demo', authenticated: true }
  res.json({ authenticated: true, user: { username: 'demo' } })
})

app.get('/auth_status', (req, res) => {
  const info = req.session.auth_info
  if (info) res.json({ authenticated: true, user: { username: info.username } })
  else res.status(401).json({ authenticated: false })
})

const server = app.listen(process.env.API_PORT || 3030, () => {
  console.log(`Listening on port ${server.address().port}`)
})
