'use strict'

const { readSettings, settingsReader, SettingsError } = require('./session-store')

/**
 * All settings of this API, from the environment.
 * @param {Object<string, string>} env
 * @returns {{port: number, development: boolean, redcapAuthUrl: ?string, dashboardUrl: ?string, shutdownDelayMs: number,
 *   shutdownTimeoutMs: number, sessions: object}}
 * @throws {SettingsError} with all problems at once
 */
function readConfig(env) {
  const { settings, problems } = readSettings(env)
  const read = settingsReader(env, problems)

  const isUrl = (value) => /^https?:$/.test(URL.canParse(value) && new URL(value).protocol)
  const development = read.oneOf('AUTH_ENV', ['development', 'production'], 'production') === 'development'
  const redcapAuthUrl = read.text('REDCAP_AUTH_URL')
  if (redcapAuthUrl && !isUrl(redcapAuthUrl)) {
    read.problem('REDCAP_AUTH_URL', `"${redcapAuthUrl}" is not an http(s) URL; give the whole URL`)
  }
  if (!redcapAuthUrl && !development && !problems.some((line) => line.startsWith('AUTH_ENV'))) {
    read.problem('REDCAP_AUTH_URL', 'missing; set the URL that verifies login codes, or AUTH_ENV=development to log in without')
  }
  const dashboardUrl = read.text('DASHBOARD_URL')
  if (dashboardUrl && !isUrl(dashboardUrl) && !/^\/(?![/\\])/.test(dashboardUrl)) {
    read.problem('DASHBOARD_URL', `"${dashboardUrl}" is neither an http(s) URL nor a path; give one, or unset it for JSON replies`)
  }
  const config = {
    port: read.integer('API_PORT', 3030, 0, 65535),
    development,
    redcapAuthUrl,
    dashboardUrl,
    shutdownDelayMs: read.integer('SHUTDOWN_DELAY_MS', 1000, 0, 600000),
    shutdownTimeoutMs: read.integer('SHUTDOWN_TIMEOUT_MS', 10000, 1, 600000),
    sessions: settings,
  }
  if (problems.length) throw new SettingsError(problems)
  return config
}

module.exports = { readConfig }
