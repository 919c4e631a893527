// node-vault, unmodified, against a development server: address, file with the root token. The CA is NODE_EXTRA_CA_CERTS.
const fs = require("node:fs");

const [endpoint, tokenFile] = process.argv.slice(2);
const token = fs.readFileSync(tokenFile, "utf8").trim();
const vault = require("node-vault")({ apiVersion: "v1", endpoint, token });
let checks = 0;

function check(holds, what) {
  checks += 1;
  if (!holds) {
    console.error(`check ${checks} failed: ${JSON.stringify(what)}`);
    process.exit(1);
  }
}

async function refused(status, act) {
  try {
    check(false, await act());
  } catch (error) {
    check(error.response && error.response.statusCode === status, String(error));
  }
}

async function main() {
  check((await vault.status()).sealed === false, "status");
  check((await vault.health()).initialized === true, "health");
  check((await vault.mounts())["secret/"].type === "kv", "mounts");
  await vault.write("secret/data/node", { data: { a: 1 } });
  check((await vault.read("secret/data/node")).data.data.a === 1, "read");
  check((await vault.list("secret/metadata")).data.keys.includes("node"), "list");
  await vault.addPolicy({ name: "node", rules: 'path "secret/data/node" { capabilities = ["read"] }' });
  check((await vault.policies()).policies.includes("node"), "policies");
  check((await vault.getPolicy({ name: "node" })).rules.includes("secret/data/node"), "policy");
  const made = await vault.tokenCreate({ policies: ["node"], ttl: "1h", display_name: "node" });
  check(made.auth.client_token.length > 20, "token");
  // the client goes on with the token that it was given
  vault.token = token;
  const user = require("node-vault")({ apiVersion: "v1", endpoint, token: made.auth.client_token });
  check((await user.tokenLookupSelf()).data.display_name.includes("node"), "lookup-self");
  check((await user.read("secret/data/node")).data.data.a === 1, "read with it");
  await refused(403, () => user.write("secret/data/node", { data: {} }));
  await refused(404, () => vault.read("secret/data/none"));
  const wrapping = require("node-vault")({ apiVersion: "v1", endpoint, token });
  const wrapped = await wrapping.write("sys/wrapping/wrap", { x: "y" }, { headers: { "X-Vault-Wrap-TTL": "60" } });
  check(wrapped.wrap_info.creation_path === "sys/wrapping/wrap", wrapped);
  check((await wrapping.unwrap({ token: wrapped.wrap_info.token })).data.x === "y", "unwrap");
  await refused(400, () => wrapping.unwrap({ token: wrapped.wrap_info.token }));
  await vault.delete("secret/metadata/node");
  await refused(404, () => vault.read("secret/data/node"));
  console.log(`node-vault: ${checks} checks done`);
}

main().catch((error) => {
  console.error(String(error), error.response && JSON.stringify(error.response.body));
  process.exit(1);
});
