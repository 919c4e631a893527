//! `strongroom login oidc`: a person proves at its provider who it is, in the browser, which comes back to this machine.
//!
//! Always: this program listens on loopback alone, for five minutes, and for one answer; who fetches the token shows the
//! nonce that began the login.
//! Never: a code, a state or a token on the screen or in an argument of another program, but for the address that opens.

use super::connection::Connection;
use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::Args;
use client::{ApiRequest, Client, Method, SecretBytes};
use serde::Deserialize;
use serde_json::json;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use zeroize::Zeroizing;

#[derive(Debug, Args)]
pub(super) struct Browser {
    /// Role of the auth method; without: its default
    #[arg(long)]
    role: Option<String>,
    /// Port of this machine to which the browser comes back, as the role allows it; 0 is any
    #[arg(long, value_name = "PORT", default_value_t = 8250)]
    port: u16,
    /// What the role calls this machine: localhost or 127.0.0.1
    #[arg(long, value_name = "HOST", default_value = "localhost", value_parser = ["localhost", "127.0.0.1"])]
    callback_host: String,
    /// Print the address, and open no browser
    #[arg(long)]
    no_browser: bool,
}

impl Browser {
    /// The token of who logs in.
    pub(super) async fn token(&self, connection: &Connection, mount: &str) -> Result<SecretBytes> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await;
        let listener = listener.with_context(|| format!("cannot listen on port {}: name another --port", self.port))?;
        let port = listener.local_addr()?.port();
        let stranger = Client::connect(connection.options_of_anybody()?).await?;
        let mut random = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *random).map_err(|_| anyhow::anyhow!("the system gave no random bytes"))?;
        let nonce = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(*random));
        let body = json!({
            "role": self.role.as_deref().unwrap_or_default(),
            "redirect_uri": format!("http://{}:{port}{CALLBACK}", self.callback_host),
            "client_nonce": *nonce,
        });
        let body = Some(SecretBytes::from_vec(body.to_string().into_bytes()));
        let asked = ApiRequest { body, ..ApiRequest::new(Method::PUT, format!("auth/{mount}/oidc/auth_url")) };
        let begun: Begun = parsed(&stranger.api(asked).await?)?;
        let address = begun.data.auth_url;
        if !address.starts_with("https://") && !address.starts_with("http://127.0.0.1") {
            bail!("the server sends the browser to no https address");
        }
        eprintln!("Log in at\n\n    {address}\n");
        if !self.no_browser {
            let mut opener = std::process::Command::new("xdg-open");
            opener.arg(&address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if opener.spawn().is_err() {
                eprintln!("There is no browser to open here: open the address yourself.");
            }
        }
        let waited = tokio::time::timeout(WAITS_FOR, comes_back(&listener)).await;
        let (mut browser, query) = waited.context("the browser did not come back within five minutes")??;
        let path = format!("auth/{mount}/oidc/callback?{}client_nonce={}", *query, *nonce);
        let outcome = stranger.api(ApiRequest::new(Method::GET, path)).await;
        let says = if outcome.is_ok() { LOGGED_IN } else { REFUSED };
        answer(&mut browser, "200 OK", says).await;
        let logged_in: LoggedIn = parsed(&outcome?)?;
        Ok(SecretBytes::copy_from(logged_in.auth.client_token.as_bytes()))
    }
}

#[derive(Deserialize)]
struct Begun {
    data: Address,
}

#[derive(Deserialize)]
struct Address {
    auth_url: String,
}

#[derive(Deserialize)]
struct LoggedIn {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Zeroizing<String>,
}

fn parsed<T: serde::de::DeserializeOwned>(answer: &SecretBytes) -> Result<T> {
    serde_json::from_slice(answer.expose()).map_err(|_| anyhow::anyhow!("the server's answer is none of a login"))
}

/// The browser's connection, and what it came back with, for the server. Whatever else asks is sent away.
async fn comes_back(listener: &TcpListener) -> Result<(TcpStream, Zeroizing<String>)> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        // a browser opens connections that it does not use
        let Ok(head) = tokio::time::timeout(HEAD_WITHIN, head(&mut stream)).await else { continue };
        match head.as_deref().and_then(|head| query(head)) {
            Some(query) => return Ok((stream, query)),
            None => answer(&mut stream, "404 Not Found", "Not here.").await,
        }
    }
}

/// The first line of a request.
async fn head(stream: &mut TcpStream) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(vec![0; HEAD_BYTES_MAX]);
    let mut read = 0;
    loop {
        let more = stream.read(bytes.get_mut(read..)?).await.ok().filter(|more| *more > 0)?;
        read += more;
        let text = std::str::from_utf8(bytes.get(..read)?).ok()?;
        if text.contains("\r\n\r\n") {
            return text.split("\r\n").next().map(|line| Zeroizing::new(line.to_owned()));
        }
    }
}

/// What the server is to hear of it, each parameter once and with `&` behind it.
fn query(line: &str) -> Option<Zeroizing<String>> {
    let target = line.strip_prefix("GET ")?.split(' ').next()?;
    let (path, query) = target.split_once('?')?;
    if path != CALLBACK || !query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return None;
    }
    let mut out = Zeroizing::new(String::with_capacity(query.len() + PASSED_ON.len()));
    for name in PASSED_ON {
        let mut found = query.split('&').filter(|part| part.split('=').next() == Some(name));
        if let Some(part) = found.next() {
            out.push_str(part);
            out.push('&');
        }
        if found.next().is_some() {
            return None;
        }
    }
    out.contains("state=").then_some(out)
}

async fn answer(stream: &mut TcpStream, status: &str, says: &str) {
    let page = format!("<!doctype html><meta charset=utf-8><title>Strongroom</title><p>{says}</p>");
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         content-security-policy: default-src 'none'\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n{page}",
        page.len()
    );
    // who has gone needs no answer
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

const CALLBACK: &str = "/oidc/callback";
const PASSED_ON: [&str; 4] = ["state", "code", "error", "iss"];
const LOGGED_IN: &str = "You are logged in. This page can be closed.";
const REFUSED: &str = "The login was refused. The command line tells more.";
const WAITS_FOR: Duration = Duration::from_secs(300);
const HEAD_WITHIN: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_provider_says_is_passed_on() {
        for (line, passed) in [
            ("GET /oidc/callback?code=a&state=b HTTP/1.1", Some("state=b&code=a&")),
            (
                "GET /oidc/callback?state=b&error=access_denied&error_description=x HTTP/1.1",
                Some("state=b&error=access_denied&"),
            ),
            (
                "GET /oidc/callback?code=a&state=b&iss=https%3A%2F%2Fi&client_nonce=z HTTP/1.1",
                Some("state=b&code=a&iss=https%3A%2F%2Fi&"),
            ),
            ("GET /oidc/callback?code=a&state=b&state=c HTTP/1.1", None),
            ("GET /oidc/callback?code=a HTTP/1.1", None),
            ("GET /oidc/callback HTTP/1.1", None),
            ("GET /favicon.ico?state=b HTTP/1.1", None),
            ("POST /oidc/callback?code=a&state=b HTTP/1.1", None),
            ("GET /oidc/callback?code=a#&state=b HTTP/1.1", None),
        ] {
            assert_eq!(query(line).as_deref().map(String::as_str), passed, "{line}");
        }
    }
}
