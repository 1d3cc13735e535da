//! Our own key: a self-signed ECDSA P-256 certificate. Its key is who we are, and its hash which run of
//! the program this is ([`RunId`]); names and dates in it are empty or wide, and no peer of ours looks
//! at them.

use std::fmt;

use actors::model::BytestreamId;
use rcgen::PublicKeyData as _;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::ParsedCertificate,
};
use sha2::{Digest as _, Sha256};

use super::KeyId;

/// Why an identity could not be made or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The system could not make a key.
    #[error("a key could not be made: {0}")]
    Generate(String),
    /// What was read is not what [`Identity::to_pem`] writes.
    #[error("the key or its certificate cannot be read: {0}")]
    Damaged(String),
}

/// Our key and its certificate. Made once and shared.
pub struct Identity {
    key: PrivatePkcs8KeyDer<'static>,
    certificate: CertificateDer<'static>,
    id: KeyId,
    pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// A fresh key.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn generate() -> Result<Self, IdentityError> {
        let failed = |error: rcgen::Error| IdentityError::Generate(error.to_string());
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = parameters().self_signed(&key).map_err(failed)?;
        let pem = format!("{}{}", key.serialize_pem(), certificate.pem());
        Ok(Identity {
            id: key_of_spki(&key.subject_public_key_info()),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            certificate: certificate.der().clone(),
            pem,
        })
    }

    /// Reads what [`Identity::to_pem`] wrote, and checks that key and certificate belong together.
    ///
    /// # Errors
    /// [`IdentityError::Damaged`]
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let damaged = |error: &dyn fmt::Display| IdentityError::Damaged(error.to_string());
        let key =
            PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|error| damaged(&error))?;
        let certificate =
            CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| damaged(&error))?;
        let pair = rcgen::KeyPair::try_from(key.secret_pkcs8_der())
            .map_err(|error| IdentityError::Damaged(error.to_string()))?;
        let id = key_of_spki(&pair.subject_public_key_info());
        let certified =
            key_of_certificate(&certificate).map_err(|error| IdentityError::Damaged(error.0))?;
        if id != certified {
            return Err(IdentityError::Damaged(
                "the certificate is that of another key".into(),
            ));
        }
        Ok(Identity {
            key,
            certificate,
            id,
            pem: text.to_owned(),
        })
    }

    /// The same key under a certificate that no other run of the program has: its hash is the
    /// [`RunId`] that peers see. What [`Identity::to_pem`] gives stays as it was.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn for_this_run(self) -> Result<Self, IdentityError> {
        let failed = |error: rcgen::Error| IdentityError::Generate(error.to_string());
        let serial =
            BytestreamId::random().map_err(|error| IdentityError::Generate(error.to_string()))?;
        let key = rcgen::KeyPair::try_from(self.key.secret_pkcs8_der()).map_err(failed)?;
        let mut params = parameters();
        params.serial_number = Some(serial.0.to_vec().into());
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Identity {
            certificate: certificate.der().clone(),
            ..self
        })
    }

    /// Key and certificate, as the profile keeps them. Secret.
    pub fn to_pem(&self) -> &str {
        &self.pem
    }

    /// The key's identity.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The certificate, as TLS sends it.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// The private key, for TLS.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

fn parameters() -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "pneuma");
    params
}

/// One run of a peer's program, from going online to its end. It is the hash of the certificate the
/// peer showed in TLS, which its key signed with the handshake: nobody else can say it. A peer that
/// shows another one has been started anew and knows nothing of what was agreed on before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId([u8; 32]);

impl RunId {
    /// The run that this certificate was made for.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        RunId(Sha256::digest(certificate).into())
    }
}

/// The certificate's key cannot be found in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate cannot be used: {0}")]
pub struct BadCertificate(pub String);

/// The identity a certificate carries. Says nothing about whether its bearer has the key.
///
/// # Errors
/// [`BadCertificate`] when it is not an X.509 version 3 certificate.
pub fn key_of_certificate(certificate: &CertificateDer<'_>) -> Result<KeyId, BadCertificate> {
    let parsed = ParsedCertificate::try_from(certificate)
        .map_err(|error| BadCertificate(error.to_string()))?;
    Ok(key_of_spki(&parsed.subject_public_key_info()))
}

fn key_of_spki(spki: &[u8]) -> KeyId {
    KeyId(Sha256::digest(spki).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_being_written_and_read() {
        let made = Identity::generate().unwrap();
        let read = Identity::from_pem(made.to_pem()).unwrap();
        assert_eq!(made.id(), read.id());
        assert_eq!(made.certificate(), read.certificate());
        assert_eq!(key_of_certificate(&read.certificate()).unwrap(), read.id());
    }

    #[test]
    fn each_run_has_a_certificate_of_its_own_for_the_same_key() {
        let kept = Identity::generate().unwrap();
        let run = || {
            let read = Identity::from_pem(kept.to_pem()).unwrap();
            read.for_this_run().unwrap()
        };
        let (one, other) = (run(), run());
        assert_ne!(
            RunId::of(&one.certificate()),
            RunId::of(&other.certificate())
        );
        assert_eq!(RunId::of(&one.certificate()), RunId::of(&one.certificate()));
        assert_eq!(key_of_certificate(&one.certificate()).unwrap(), kept.id());
        assert_eq!((one.id(), one.to_pem()), (kept.id(), kept.to_pem()));
    }

    #[test]
    fn a_certificate_of_another_key_is_refused() {
        let (one, two) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let split = |pem: &str| pem.find("-----BEGIN CERTIFICATE").unwrap();
        let mixed = format!(
            "{}{}",
            &one.to_pem()[..split(one.to_pem())],
            &two.to_pem()[split(two.to_pem())..]
        );
        assert!(Identity::from_pem(&mixed).is_err());
    }

    #[test]
    fn rubbish_is_refused_and_never_printed() {
        let made = Identity::generate().unwrap();
        for text in ["", "rubbish", &made.to_pem()[..made.to_pem().len() / 2]] {
            assert!(Identity::from_pem(text).is_err());
        }
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }
}
