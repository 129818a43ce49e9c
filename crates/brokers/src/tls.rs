//! Encryption of a connection (`rediss://`, `amqps://`), and what a URL says of it.

use std::{io, sync::Arc};

use rustls::{
    AlertDescription, ClientConfig, RootCertStore,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Extent to which the other side is checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tls {
    /// Not at all.
    pub(crate) insecure: bool,
    /// A file of authorities, in place of the system's.
    pub(crate) authorities: Option<String>,
    /// Our identity, for a server that wants one: files of a certificate and of its key.
    pub(crate) identity: Option<(String, String)>,
}

/// Options of a URL that are about TLS, and make sense only together.
#[derive(Default)]
pub(crate) struct TlsOptions {
    insecure: bool,
    authorities: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl TlsOptions {
    /// Returns whether an option is one of these.
    pub(crate) fn takes(&self, name: &str) -> bool {
        matches!(name, "insecure" | "ssl_cert_reqs" | "ssl_ca_certs" | "ssl_certfile" | "ssl_keyfile")
    }

    /// Takes an option that is [one of these](Self::takes).
    pub(crate) fn set(&mut self, name: &str, value: String) {
        match name {
            "insecure" => self.insecure = value.is_empty() || matches!(value.as_str(), "1" | "true" | "yes"),
            "ssl_cert_reqs" => self.insecure = matches!(value.to_ascii_lowercase().trim_start_matches("cert_"), "none"),
            "ssl_ca_certs" => self.authorities = Some(value),
            "ssl_certfile" => self.certificate = Some(value),
            "ssl_keyfile" => self.key = Some(value),
            _ => {}
        }
    }

    /// Returns how TLS is done, if it is (`on`, with a scheme such as this one).
    pub(crate) fn tls(self, on: bool, scheme: &str) -> Result<Option<Tls>, String> {
        let identity = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err("`ssl_certfile` without `ssl_keyfile`: a certificate needs its key".into()),
            (None, Some(_)) => return Err("`ssl_keyfile` without `ssl_certfile`: a key needs its certificate".into()),
        };
        // Whoever names files for TLS believes that there is TLS.
        if !on && (identity.is_some() || self.authorities.is_some()) {
            return Err(format!("files for TLS (`ssl_…`) without TLS; that begins with `{scheme}://`"));
        }
        Ok(on.then_some(Tls { insecure: self.insecure, authorities: self.authorities, identity }))
    }
}

/// Shakes hands.
pub(crate) async fn wrap(stream: TcpStream, host: &str, how: &Tls) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("`{host}` is no host's name")))?;
    let connector = TlsConnector::from(Arc::new(client(how)?));
    connector.connect(name, stream).await
}

fn client(how: &Tls) -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    let builder = if how.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        builder.with_root_certificates(roots(how)?)
    };
    let Some((certificate, key)) = &how.identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(format!("`ssl_keyfile` {key}: {error}")))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| wrong(format!("`ssl_certfile` {certificate} and its key: {error}")))
}

fn wrong(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Returns the certificates in a file; at least one.
fn certificates(path: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let bad = |error| wrong(format!("{path}: {error}"));
    let found: Vec<_> = CertificateDer::pem_file_iter(path).map_err(bad)?.collect::<Result<_, _>>().map_err(bad)?;
    if found.is_empty() { Err(wrong(format!("{path}: no certificate in it"))) } else { Ok(found) }
}

/// Returns the authorities that may vouch for the server.
fn roots(how: &Tls) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match &how.authorities {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| wrong(format!("{path}: {error}")))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(wrong("this system has no certificate authorities; name some with `?ssl_ca_certs=/path/ca.pem`".into()));
    }
    Ok(roots)
}

/// Words for a server that wants to know who we are.
pub(crate) const WANTS: &str =
    "; does the server want a certificate of ours? It is named by `?ssl_certfile=/path/client.pem&ssl_keyfile=/path/client.key`";

/// Returns the other side's objection to us, if it was a matter of TLS. It says so after its own
/// part of the handshake: the first read hears it.
pub(crate) fn objection(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let wants = match error {
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure) => WANTS,
        _ => "",
    };
    Some(format!("TLS: {error}{wants}"))
}

/// Takes anybody for the server: what `?insecure` asks for.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
