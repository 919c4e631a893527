// A person at a real browser: opens an address, types a name into the provider's own page, agrees, and reads what it ends on.
// Arguments: address, name, `agree` or `refuse`. Prints where it ended and what stands there.
import { chromium } from 'playwright-core'

const [address, name, wish] = process.argv.slice(2)
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
})
try {
  const page = await (await browser.newContext({ ignoreHTTPSErrors: true })).newPage()
  await page.goto(address)
  if (wish === 'refuse') {
    await page.click('text=[ Cancel ]')
  } else {
    await page.fill('input[name="login"]', name)
    await page.fill('input[name="password"]', 'any')
    await page.click('button[type="submit"]')
    await page.click('button[type="submit"]')
  }
  await page.waitForURL((url) => url.pathname === '/oidc/callback')
  console.log(JSON.stringify({ path: new URL(page.url()).pathname, says: await page.innerText('body') }))
} finally {
  await browser.close()
}
