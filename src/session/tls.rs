//! TLS 1.3 with both certificates, for XML streams and bytestreams alike.
//!
//! There are no authorities and no names: a certificate is good when it can be read, when its bearer
//! proved to have its key, and when that key is the one expected. For XML streams the key that is
//! expected is known only after the stream's header, so there any key passes the handshake and
//! [`peer_key`] says which it was; **whoever passes `None` compares it afterwards**.
//!
//! No early data, no tickets, no resumption: a resumed session would not run the verifier again.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, CommonState, ConnectionCommon, DigitallySignedStruct,
    DistinguishedName, Error as TlsError, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};

use super::trust::{Identity, KeyId, RunId, key_of_certificate};

/// The exporter label of an XML stream's value ([`super::link::LinkSecurity::exporter`]).
pub const STREAM_EXPORTER: &[u8] = b"EXPORTER-pneuma-stream-1";

/// The side that dials the handshake. `expected`: no other key passes. `alpn`: the only protocol
/// offered; check with [`speaks`] that it was taken.
///
/// # Errors
/// When the key cannot be used, which for an [`Identity`] that was read or made is a bug.
pub fn client_config(
    identity: &Identity,
    expected: Option<KeyId>,
    alpn: Option<&[u8]>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = Arc::new(Verifier::new(expected, &provider));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate()], identity.private_key())?;
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
    Ok(Arc::new(config))
}

/// The side that is dialled; see [`client_config`].
///
/// # Errors
/// As [`client_config`].
pub fn server_config(
    identity: &Identity,
    expected: Option<KeyId>,
    alpn: Option<&[u8]>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier = Arc::new(Verifier::new(expected, &provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate()], identity.private_key())?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
    Ok(Arc::new(config))
}

/// The name a client configuration asks for: never sent (SNI is off) and never looked at.
pub fn any_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())
}

/// The key the peer proved. `None` before the handshake is complete.
pub fn peer_key(connection: &CommonState) -> Option<KeyId> {
    if connection.is_handshaking() {
        return None;
    }
    let certificate = connection.peer_certificates()?.first()?;
    key_of_certificate(certificate).ok()
}

/// Which run of the peer's program this is. `None` before the handshake is complete.
pub fn peer_run(connection: &CommonState) -> Option<RunId> {
    if connection.is_handshaking() {
        return None;
    }
    connection.peer_certificates()?.first().map(RunId::of)
}

/// Whether both sides agreed on this protocol.
pub fn speaks(connection: &CommonState, alpn: &[u8]) -> bool {
    connection.alpn_protocol() == Some(alpn)
}

/// A value both ends derive and nobody else (RFC 8446 section 7.5). `None` before the handshake is
/// complete.
pub fn exporter<D>(
    connection: &ConnectionCommon<D>,
    label: &[u8],
    context: &[u8],
) -> Option<[u8; 32]> {
    connection
        .export_keying_material([0; 32], label, Some(context))
        .ok()
}

/// [`exporter`] of a stream, whichever side of the handshake it was.
pub fn stream_exporter<IO>(
    stream: &futures_rustls::TlsStream<IO>,
    label: &[u8],
    context: &[u8],
) -> Option<[u8; 32]> {
    match stream {
        futures_rustls::TlsStream::Client(stream) => exporter(stream.get_ref().1, label, context),
        futures_rustls::TlsStream::Server(stream) => exporter(stream.get_ref().1, label, context),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Checks the signature as webpki does and the key as the module's head says.
#[derive(Debug)]
struct Verifier {
    expected: Option<KeyId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(expected: Option<KeyId>, provider: &CryptoProvider) -> Self {
        Verifier {
            expected,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), TlsError> {
        let key = key_of_certificate(certificate)
            .map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
        match self.expected {
            Some(expected) if expected != key => Err(TlsError::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
            _ => Ok(()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// TLS 1.2 is not built in; a caller that gets here is a bug in rustls and gets an error.
fn no_tls12() -> TlsError {
    TlsError::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.check(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConnection, HandshakeKind, ServerConnection};

    use super::*;

    struct Pair {
        client: ClientConnection,
        server: ServerConnection,
    }

    impl Pair {
        fn new(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Self {
            Pair {
                client: ClientConnection::new(client, any_name()).unwrap(),
                server: ServerConnection::new(server).unwrap(),
            }
        }

        /// Carries bytes both ways until there are none; the first error ends it.
        fn run(&mut self) -> Result<(), TlsError> {
            loop {
                let mut moved = false;
                let mut wire = Vec::new();
                while self.client.wants_write() {
                    self.client.write_tls(&mut wire).unwrap();
                }
                moved |= !wire.is_empty();
                let mut bytes = &wire[..];
                while !bytes.is_empty() {
                    self.server.read_tls(&mut bytes).unwrap();
                    self.server.process_new_packets()?;
                }
                let mut wire = Vec::new();
                while self.server.wants_write() {
                    self.server.write_tls(&mut wire).unwrap();
                }
                moved |= !wire.is_empty();
                let mut bytes = &wire[..];
                while !bytes.is_empty() {
                    self.client.read_tls(&mut bytes).unwrap();
                    self.client.process_new_packets()?;
                }
                if !moved {
                    return Ok(());
                }
            }
        }
    }

    fn identity() -> Identity {
        Identity::generate().unwrap()
    }

    #[test]
    fn both_sides_learn_the_key_of_the_other_and_one_exporter() {
        let (one, two) = (identity(), identity());
        let mut pair = Pair::new(
            client_config(&one, Some(two.id()), Some(b"x/1")).unwrap(),
            server_config(&two, Some(one.id()), Some(b"x/1")).unwrap(),
        );
        assert_eq!(peer_key(&pair.client), None);
        pair.run().unwrap();
        assert_eq!(peer_key(&pair.client), Some(two.id()));
        assert_eq!(peer_key(&pair.server), Some(one.id()));
        assert!(speaks(&pair.client, b"x/1") && speaks(&pair.server, b"x/1"));
        assert!(!speaks(&pair.server, b"x/2"));
        let here = exporter(&pair.client, STREAM_EXPORTER, b"c").unwrap();
        assert_eq!(exporter(&pair.server, STREAM_EXPORTER, b"c"), Some(here));
        assert_ne!(exporter(&pair.server, STREAM_EXPORTER, b"d"), Some(here));
    }

    #[test]
    fn without_an_expected_key_any_passes_and_is_reported() {
        let (one, two) = (identity(), identity());
        let mut pair = Pair::new(
            client_config(&one, None, None).unwrap(),
            server_config(&two, None, None).unwrap(),
        );
        pair.run().unwrap();
        assert_eq!(peer_key(&pair.server), Some(one.id()));
    }

    #[test]
    fn a_wrong_key_is_refused_by_either_side() {
        let (one, two, three) = (identity(), identity(), identity());
        let mut pair = Pair::new(
            client_config(&one, Some(three.id()), None).unwrap(),
            server_config(&two, None, None).unwrap(),
        );
        assert!(pair.run().is_err());
        let mut pair = Pair::new(
            client_config(&one, None, None).unwrap(),
            server_config(&two, Some(three.id()), None).unwrap(),
        );
        assert!(pair.run().is_err());
        assert_eq!(peer_key(&pair.server), None);
    }

    /// The certificate of one key with the signature of another: what somebody does who has only
    /// seen the certificate go by.
    #[test]
    fn a_certificate_without_its_key_proves_nothing() {
        #[derive(Debug)]
        struct Thief(Arc<rustls::sign::CertifiedKey>);
        impl rustls::client::ResolvesClientCert for Thief {
            fn resolve(
                &self,
                _hints: &[&[u8]],
                _schemes: &[SignatureScheme],
            ) -> Option<Arc<rustls::sign::CertifiedKey>> {
                Some(self.0.clone())
            }
            fn has_certs(&self) -> bool {
                true
            }
        }
        let (thief, victim, server) = (identity(), identity(), identity());
        let key = rustls::crypto::ring::sign::any_supported_type(&thief.private_key()).unwrap();
        let mut config =
            Arc::unwrap_or_clone(client_config(&thief, Some(server.id()), None).unwrap());
        config.client_auth_cert_resolver = Arc::new(Thief(Arc::new(
            rustls::sign::CertifiedKey::new(vec![victim.certificate()], key),
        )));
        let mut pair = Pair::new(
            Arc::new(config),
            server_config(&server, Some(victim.id()), None).unwrap(),
        );
        assert!(matches!(
            pair.run(),
            Err(TlsError::InvalidCertificate(CertificateError::BadSignature))
        ));
    }

    #[test]
    fn a_client_without_a_certificate_is_refused() {
        let (one, two) = (identity(), identity());
        let provider = provider();
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(Some(two.id()), &provider)))
            .with_no_client_auth();
        let mut pair = Pair::new(
            Arc::new(config),
            server_config(&two, Some(one.id()), None).unwrap(),
        );
        assert_eq!(pair.run(), Err(TlsError::NoCertificatesPresented));
    }

    #[test]
    fn a_second_handshake_is_a_full_one() {
        let (one, two) = (identity(), identity());
        let client = client_config(&one, Some(two.id()), None).unwrap();
        let server = server_config(&two, Some(one.id()), None).unwrap();
        for _ in 0..2 {
            let mut pair = Pair::new(client.clone(), server.clone());
            pair.run().unwrap();
            assert_eq!(pair.client.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(pair.client.tls13_tickets_received(), 0);
        }
    }

    #[test]
    fn tls_1_2_is_refused() {
        let two = identity();
        let mut server = ServerConnection::new(server_config(&two, None, None).unwrap()).unwrap();
        // A TLS 1.2 ClientHello: no supported_versions, one ECDSA suite, P-256.
        let extensions: &[u8] = &[
            0, 10, 0, 4, 0, 2, 0, 23, // supported_groups: secp256r1
            0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
        ];
        let mut hello = vec![3, 3];
        hello.extend([7; 32]);
        hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, extensions.len() as u8]);
        hello.extend(extensions);
        let mut wire = vec![
            22,
            3,
            1,
            0,
            hello.len() as u8 + 4,
            1,
            0,
            0,
            hello.len() as u8,
        ];
        wire.extend(hello);
        server.read_tls(&mut &wire[..]).unwrap();
        assert!(matches!(
            server.process_new_packets(),
            Err(TlsError::PeerIncompatible(_))
        ));
    }
}
