//! A database on another machine: TLS, its certificate, and ours.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

const SETTINGS: [&str; 5] = [
    "ssl=on",
    "ssl_cert_file=server.pem",
    "ssl_key_file=server.key",
    "ssl_ca_file=clients.pem",
    "hba_file=data/hba.conf",
];
/// Over TCP by a certificate alone.
const HBA: &str = "local all all scram-sha-256\nhostssl all all 127.0.0.1/32 cert\n";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key, PEM.
fn issue(by: &Authority, alternative: &str, common: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![alternative.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, common);
    (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_used_only_where_it_and_we_prove_who_we_are() {
    let (ours, clients, other) = (authority(), authority(), authority());
    let (certificate, key) = issue(&ours, "127.0.0.1", "database");
    let files = [
        ("server.pem", certificate.as_str()),
        ("server.key", &key),
        ("clients.pem", &clients.pem()),
        ("hba.conf", HBA),
    ];
    let server = Server::with_files(&SETTINGS, &files);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let pair = |name: &str, (certificate, key): (String, String)| {
        (write(&format!("{name}.pem"), &certificate), write(&format!("{name}.key"), &key))
    };
    let (right, wrong) = (write("right", &ours.pem()), write("wrong", &other.pem()));
    let sound = pair("sound", issue(&clients, "strongroom", "strongroom"));
    let (named, strange) = (
        pair("named", issue(&clients, "postgres", "postgres")),
        pair("strange", issue(&other, "strongroom", "strongroom")),
    );
    let url = server.tcp_url();
    let by_name = url.replace("127.0.0.1", "localhost") + "?hostaddr=127.0.0.1";
    for (case, url, authorities, certificate, opens) in [
        ("all is right", &url, Some(&right), Some(&sound), true),
        ("the database's certificate is of another authority", &url, Some(&wrong), Some(&sound), false),
        ("it is of another name", &by_name, Some(&right), Some(&sound), false),
        ("we show none", &url, Some(&right), None, false),
        ("ours is another user's", &url, Some(&right), Some(&named), false),
        ("ours is of another authority", &url, Some(&right), Some(&strange), false),
        ("no TLS is asked for", &url, None, None, false),
    ] {
        let options = Options {
            authorities: authorities.cloned(),
            certificate: certificate.cloned(),
            ..Options::new(url, "tls", "1")
        };
        let opened = soon(Duration::from_secs(10), async || match Postgres::open(&options) {
            Err(StorageError::Held) => None,
            opened => Some(opened),
        });
        match opened.await {
            Ok(store) => {
                assert!(opens, "{case}");
                store.commit(batch(1).put(at("t/a"), "1")).await.unwrap();
                let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
                     WHERE application_name LIKE 'strongroom %'";
                assert_eq!(server.psql(encrypted), "t", "every connection");
            }
            Err(error) => assert_eq!((opens, error), (false, StorageError::Unavailable), "{case}"),
        }
    }
    // a database without TLS is not spoken to where its authority is named
    let plain = Server::start();
    let options = Options { authorities: Some(right), ..options(&plain, "tls", "1") };
    let options = Options { url: plain.tcp_url(), ..options };
    assert_eq!(Postgres::open(&options).unwrap_err(), StorageError::Unavailable);
}
