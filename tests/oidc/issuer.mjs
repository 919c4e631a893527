// An issuer of tokens that is nobody of ours: keys and signatures by jose, hostile headers and payloads byte for byte by
// node's own crypto. It serves its discovery document and its keys over TLS, and lies where it is told to.
// Arguments: certificate, key. Commands and answers are lines of JSON on standard input and output.
import { createPrivateKey, createHmac, createPublicKey, sign as cryptoSign, constants } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'
import { createInterface } from 'node:readline'
import * as jose from 'jose'

const [cert, key] = process.argv.slice(2).map((file) => readFileSync(file))
const keys = {}
let serves = []
let behaves = 'well'
const asked = { discovery: 0, keys: 0 }
let url

async function make(id, alg) {
  const pair = await jose.generateKeyPair(alg, { extractable: true })
  const jwk = { ...(await jose.exportJWK(pair.publicKey)), kid: id, alg, use: 'sig' }
  keys[id] = { alg, jwk, pair, pem: await jose.exportSPKI(pair.publicKey), pkcs8: await jose.exportPKCS8(pair.privateKey) }
}

const b64 = (bytes) => Buffer.from(bytes).toString('base64url')

function raw({ key, header, payload, by }) {
  const message = `${b64(header)}.${b64(payload)}`
  if (by === 'nobody') return `${message}.`
  if (by === 'public') return `${message}.${createHmac('sha256', keys[key].pem).update(message).digest('base64url')}`
  const { alg, pkcs8 } = keys[key]
  const options = { key: createPrivateKey(pkcs8) }
  if (alg.startsWith('ES')) options.dsaEncoding = 'ieee-p1363'
  if (alg.startsWith('PS')) Object.assign(options, { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST })
  const hash = alg === 'EdDSA' ? null : `sha${alg.slice(2)}`
  return `${message}.${b64(cryptoSign(hash, Buffer.from(message), options))}`
}

const commands = {
  make: async ({ id, alg }) => (await make(id, alg), keys[id].jwk),
  jwk: async ({ id }) => keys[id].jwk,
  pem: async ({ id }) => createPublicKey(keys[id].pem).export({ type: 'spki', format: 'pem' }),
  serve: async ({ ids }) => ((serves = ids), ids),
  behave: async ({ how }) => ((behaves = how), how),
  asked: async () => asked,
  sign: async ({ key, header = {}, claims }) =>
    new jose.SignJWT(claims).setProtectedHeader({ alg: keys[key].alg, kid: key, ...header }).sign(keys[key].pair.privateKey),
  raw: async (command) => raw(command),
}

function answer(response, document) {
  const json = (text, type = 'application/json') => response.writeHead(200, { 'content-type': type }).end(text)
  switch (behaves) {
    case 'away': return response.destroy()
    case 'slow': return
    case 'drips': { response.writeHead(200, { 'content-type': 'application/json' }); const drip = setInterval(() => response.write(' '), 100); response.on('close', () => clearInterval(drip)); return }
    case 'huge': return json(JSON.stringify({ ...document, padding: 'x'.repeat(8 << 20) }))
    case 'redirects': return response.writeHead(302, { location: `${url}/elsewhere` }).end()
    case 'html': return json('<html><body>Please log in to this network</body></html>', 'text/html')
    case 'fails': return response.writeHead(500).end('{}')
    case 'empty': return json('{"keys": []}')
    case 'twice': return json(JSON.stringify(document).replace('{', '{"keys": [], "issuer": "https://a.example", '))
    case 'other-name': return json(JSON.stringify(document.issuer ? { ...document, issuer: `${url}/` } : document))
    case 'plain-keys': return json(JSON.stringify(document.issuer ? { ...document, jwks_uri: 'http://keys.example/jwks' } : document))
    default: return json(JSON.stringify(document))
  }
}

const server = createServer({ cert, key }, (request, response) => {
  if (request.url === '/.well-known/openid-configuration') {
    asked.discovery += 1
    return answer(response, { issuer: url, jwks_uri: `${url}/keys` })
  }
  if (request.url === '/keys') {
    asked.keys += 1
    return answer(response, { keys: serves.map((id) => keys[id].jwk) })
  }
  response.writeHead(404).end()
})
server.listen(0, '127.0.0.1', () => {
  url = `https://127.0.0.1:${server.address().port}`
  console.log(JSON.stringify(url))
  const lines = createInterface({ input: process.stdin })
  let last = Promise.resolve()
  lines.on('line', (line) => {
    last = last.then(async () => {
      const { op, ...command } = JSON.parse(line)
      try {
        console.log(JSON.stringify(await commands[op](command)))
      } catch (error) {
        console.log(JSON.stringify({ failed: String(error) }))
      }
    })
  })
  lines.on('close', () => process.exit(0))
})
