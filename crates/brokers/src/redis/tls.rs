//! Encryption of a connection (`rediss://`).

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{socket::Socket, url::Tls};

/// What has come may be half of a record: nothing can be told before the runtime is asked.
impl Socket for TlsStream<TcpStream> {}

/// Shakes hands.
pub(super) async fn wrap(stream: TcpStream, host: &str, how: &Tls) -> io::Result<Box<dyn Socket>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("`{host}` is no host's name")))?;
    let connector = TlsConnector::from(Arc::new(client(how)?));
    Ok(Box::new(connector.connect(name, stream).await?))
}

fn client(how: &Tls) -> io::Result<ClientConfig> {
    let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    if how.insecure {
        return Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))).with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    match &how.authorities {
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(format!("{path}: {error}")))?;
            for certificate in certificates {
                roots
                    .add(certificate.map_err(|error| wrong(format!("{path}: {error}")))?)
                    .map_err(|error| wrong(format!("{path}: {error}")))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(wrong("this system has no certificate authorities; name some with `?ssl_ca_certs=/path/ca.pem`".into()));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
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
