// The certified OpenID provider `oidc-provider`, as it comes, over TLS: its own pages for people, its own tokens for programs.
// Arguments: certificate, key. `rotate` on standard input puts a new key before the old, `drop` takes the old away.
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'
import { createInterface } from 'node:readline'
import * as jose from 'jose'
import Provider from 'oidc-provider'

const [cert, key] = process.argv.slice(2).map((file) => readFileSync(file))
const people = { alice: ['developers', 'admins'], bob: ['developers'], mallory: [] }
// standard output is for answers alone
console.info = console.error
let url, handle
let keys = []

async function fresh() {
  const { privateKey } = await jose.generateKeyPair('RS256', { extractable: true })
  return { ...(await jose.exportJWK(privateKey)), alg: 'RS256', use: 'sig', kid: `key-${Date.now()}-${keys.length}` }
}

function provide() {
  const provider = new Provider(url, {
    jwks: { keys },
    clients: [
      { client_id: 'people', token_endpoint_auth_method: 'none', application_type: 'native', grant_types: ['authorization_code'], response_types: ['code'], redirect_uris: ['http://127.0.0.1/oidc/callback'] },
      { client_id: 'confidential', client_secret: 'a secret: with + and %', application_type: 'native', grant_types: ['authorization_code'], response_types: ['code'], redirect_uris: ['http://127.0.0.1/oidc/callback'] },
      { client_id: 'ci', client_secret: 'secret-of-ci', grant_types: ['client_credentials'], redirect_uris: [], response_types: [] },
    ],
    claims: { openid: ['sub'], profile: ['groups'], email: ['email'] },
    scopes: ['openid', 'profile', 'email', 'jobs'],
    cookies: { keys: ['not a secret'] },
    pkce: { required: () => true },
    findAccount: async (context, id) =>
      people[id] && { accountId: id, claims: async () => ({ sub: id, email: `${id}@people.example`, groups: people[id] }) },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (context, resource) => ({ scope: 'jobs', audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: 600, jwt: { sign: { alg: 'RS256' } } }),
      },
    },
    extraTokenClaims: () => ({ repository_id: '4711', ref: 'refs/heads/main', environment: 'production', protected: true }),
  })
  handle = provider.callback()
}

const server = createServer({ cert, key }, (request, response) => handle(request, response))
server.listen(0, '127.0.0.1', async () => {
  url = `https://127.0.0.1:${server.address().port}`
  keys = [await fresh()]
  provide()
  console.log(JSON.stringify(url))
  const lines = createInterface({ input: process.stdin })
  lines.on('line', async (line) => {
    const { op } = JSON.parse(line)
    if (op === 'rotate') keys = [await fresh(), ...keys]
    if (op === 'drop') keys = keys.slice(0, 1)
    provide()
    console.log(JSON.stringify(keys.map((key) => key.kid)))
  })
  lines.on('close', () => process.exit(0))
})
