'use strict'

const VERIFY_TIMEOUT_MS = 10000

/** A login that is refused: `status` and `message` are for the caller. */
class LoginError extends Error {
  constructor(status, message) {
    super(message)
    this.status = status
    this.expose = true
  }
}

const isRecord = (value) => typeof value === 'object' && value !== null && !Array.isArray(value)

/** AUTH_ENV=development: whoever asks is logged in, under the name they give. */
function demoUser(body) {
  const username = body?.username ?? 'demo'
  if (typeof username !== 'string' || !/^[\w.@+-]{1,64}$/.test(username)) {
    throw new LoginError(400, 'username must be 1 to 64 letters, digits or any of . _ @ + -')
  }
  return { username, first_name: username, last_name: 'user', email: `${username}@example.org`, organization: 'demo', access_level: '1' }
}

/** AUTH_ENV=production: ask REDCap who holds `body.code`. */
async function verifiedUser(body, redcapAuthUrl) {
  const code = body?.code
  if (typeof code !== 'string' || !/^[^\n\r\0]{1,512}$/.test(code)) throw new LoginError(400, 'Invalid authorization code')
  const url = new URL(redcapAuthUrl)
  url.searchParams.set('code', code)
  let reply, text
  try {
    reply = await fetch(url, { redirect: 'manual', signal: AbortSignal.timeout(VERIFY_TIMEOUT_MS) })
    text = await reply.text()
  } catch (err) {
    if (err.name === 'TimeoutError') throw new LoginError(504, 'Authentication provider timeout')
    throw new LoginError(502, 'Failed to connect to authentication provider')
  }
  if (reply.status !== 200) throw new LoginError(reply.status >= 400 ? reply.status : 502, 'Authentication failed')
  try {
    const user = JSON.parse(text)
    if (isRecord(user)) return user
  } catch {
    // REDCap may answer a bare text: the code was good all the same
  }
  return {}
}

/** The session under the key that the dashboard's API uses, so that both can read it. */
const userOf = (req) => {
  const info = req.session.auth_info
  if (!isRecord(info) || info.authenticated !== true) return null
  const { authenticated: _, ...user } = info
  return user
}

const call = (object, method) => new Promise((resolve, reject) => object[method]((err) => (err ? reject(err) : resolve())))

/** Log `user` in under a new session id (a planted one is worthless) and return only when the session is stored. */
async function logIn(req, user) {
  await call(req.session, 'regenerate')
  req.session.auth_info = { ...user, authenticated: true }
  await call(req.session, 'save')
}

const logOut = (req) => call(req.session, 'destroy')

module.exports = { demoUser, verifiedUser, userOf, logIn, logOut }
