//! A certificate authority of one's own, for a cluster that has no other: made in a folder, used from the command line.
//!
//! The folder holds `ca.pem` and `ca.key`, and a `NAME.pem` and `NAME.key` for each certificate that the authority signed.
//! Keys are for their owner's eyes only; `ca.key` need not lie on the coordinator's machine at all.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use time::{Duration, OffsetDateTime};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// How long an authority lasts, and what it signs.
const CA_DAYS: i64 = 3650;
const CERTIFICATE_DAYS: i64 = 730;

/// Certificates hold from a day ago on, for machines whose clocks are behind.
const BEFORE: Duration = Duration::DAY;

/// Letters of a name at most.
const NAME_LENGTH_MAX: usize = 64;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The disk refuses.
    #[error("cannot read or write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing is overwritten: what the old key signed would be of no use any more.
    #[error("{} is there already; choose another folder or name, or remove it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// No authority.
    #[error("there is no certificate authority in {}; make one with `coordinator tls init --dir {}`", folder.display(), folder.display())]
    NoAuthority {
        /// Where it should be.
        folder: PathBuf,
    },
    /// Not a name of a machine, nor of a client.
    #[error(
        "{0:?} can stand in no certificate; give a host name, an IP address, or for a client letters, digits, dots, dashes and underscores"
    )]
    Name(String),
    /// The certificate cannot be made.
    #[error("the certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// The system's time is out of any calendar.
    #[error("the system's time cannot stand in a certificate; set the clock")]
    Clock,
}

/// A certificate with its key, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// PEM.
    pub cert: PathBuf,
    /// PEM, for its owner only.
    pub key: PathBuf,
}

impl Subject {
    /// What its files are called, and its certificate but for its dates.
    fn params(&self) -> Result<(&str, CertificateParams), CertificateError> {
        match self {
            Self::Server(hosts) => Ok(("server", server(hosts)?)),
            Self::Client(name) => Ok((name, client(name)?)),
        }
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A coordinator, under each of these host names and addresses.
    Server(Vec<String>),
    /// A worker or a user.
    Client(String),
}

impl Files {
    fn of(folder: &Path, stem: &str) -> Self {
        Self { cert: folder.join(format!("{stem}.pem")), key: folder.join(format!("{stem}.key")) }
    }

    /// The authority's.
    pub fn authority(folder: &Path) -> Self {
        Self::of(folder, "ca")
    }
}

/// Makes an authority in a folder that has none, and signs its first certificate: the files of both.
///
/// # Errors
/// [`CertificateError`]; a name that cannot be signed leaves no authority behind.
pub fn found(folder: &Path, first: &Subject, now_ms: u64) -> Result<[Files; 2], CertificateError> {
    first.params()?;
    fs::create_dir_all(folder).map_err(|source| CertificateError::Io { path: folder.to_owned(), source })?;
    let files = Files::authority(folder);
    let key = KeyPair::generate()?;
    let mut params = authority();
    (params.not_before, params.not_after) = lifetime(now_ms, CA_DAYS)?;
    write(&files, &params.self_signed(&key)?.pem(), &key)?;
    Ok([files, sign(folder, first, now_ms)?])
}

/// Signs a certificate with the authority of a folder, and puts it there.
///
/// # Errors
/// [`CertificateError`].
pub fn sign(folder: &Path, subject: &Subject, now_ms: u64) -> Result<Files, CertificateError> {
    let authority_key = Files::authority(folder).key;
    let pem = match fs::read_to_string(&authority_key) {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CertificateError::NoAuthority { folder: folder.to_owned() });
        }
        Err(source) => return Err(CertificateError::Io { path: authority_key, source }),
    };
    let ca = authority();
    let issuer = Issuer::from_params(&ca, KeyPair::from_pem(&pem)?);
    let (stem, mut params) = subject.params()?;
    (params.not_before, params.not_after) = lifetime(now_ms, CERTIFICATE_DAYS)?;
    let files = Files::of(folder, stem);
    let key = KeyPair::generate()?;
    write(&files, &params.signed_by(&key, &issuer)?.pem(), &key)?;
    Ok(files)
}

/// What a coordinator shows with these files; with `client_ca`, only clients whose certificates that authority signed are
/// answered. All are PEM.
pub fn server_tls(cert: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> ServerTlsConfig {
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(cert, key));
    match client_ca {
        Some(ca) => tls.client_ca_root(Certificate::from_pem(ca)),
        None => tls,
    }
}

/// The authority's certificate but for its dates. What it signs names it by this, so it is the same each time.
fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Earshot certificate authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn server(hosts: &[String]) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::default();
    for host in hosts {
        params.subject_alt_names.push(match host.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if is_host(host) => SanType::DnsName(Ia5String::try_from(host.as_str())?),
            Err(_) => return Err(CertificateError::Name(host.clone())),
        });
    }
    params.distinguished_name = named("Earshot coordinator");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(leaf(params))
}

fn client(name: &str) -> Result<CertificateParams, CertificateError> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    let begins_well = name.starts_with(|letter: char| letter.is_ascii_alphanumeric());
    let is_taken = ["ca", "server"].contains(&name);
    if !begins_well || is_taken || name.len() > NAME_LENGTH_MAX || !name.chars().all(is_letter) {
        return Err(CertificateError::Name(name.to_owned()));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(leaf(params))
}

fn leaf(mut params: CertificateParams) -> CertificateParams {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// A name by the rules of RFC 1123, with `*` as its first label at most.
fn is_host(text: &str) -> bool {
    let text = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
        (1..=63).contains(&label.len())
            && label.chars().all(is_letter)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

fn lifetime(now_ms: u64, days: i64) -> Result<(OffsetDateTime, OffsetDateTime), CertificateError> {
    let seconds = i64::try_from(now_ms / 1000).map_err(|_| CertificateError::Clock)?;
    let now = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| CertificateError::Clock)?;
    let begin = now.checked_sub(BEFORE).ok_or(CertificateError::Clock)?;
    let end = now.checked_add(Duration::days(days)).ok_or(CertificateError::Clock)?;
    Ok((begin, end))
}

/// The key first: a certificate without one is of no use. Neither may be there already.
fn write(files: &Files, cert: &str, key: &KeyPair) -> Result<(), CertificateError> {
    for path in [&files.cert, &files.key] {
        if path.exists() {
            return Err(CertificateError::Exists { path: path.clone() });
        }
    }
    create(&files.key, &key.serialize_pem(), 0o600)?;
    create(&files.cert, cert, 0o644)
}

fn create(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CertificateError::Exists { path: path.to_owned() },
        _ => CertificateError::Io { path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    #[test]
    fn keys_are_for_their_owner_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let folder = &folder.path().join("tls");
        let none = sign(folder, &Subject::Client("attic".into()), NOW_MS);
        assert!(matches!(none, Err(CertificateError::NoAuthority { .. })));
        let server = Subject::Server(vec!["coordinator.example".into(), "10.0.0.1".into(), "::1".into()]);
        found(folder, &server, NOW_MS).unwrap();
        sign(folder, &Subject::Client("attic".into()), NOW_MS).unwrap();
        for stem in ["ca", "server", "attic"] {
            let files = Files::of(folder, stem);
            assert_eq!(fs::metadata(files.key).unwrap().mode() & 0o777, 0o600, "{stem}");
            assert!(fs::read_to_string(files.cert).unwrap().starts_with("-----BEGIN CERTIFICATE"), "{stem}");
        }
        assert!(matches!(found(folder, &server, NOW_MS), Err(CertificateError::Exists { .. })));
        assert!(matches!(sign(folder, &server, NOW_MS), Err(CertificateError::Exists { .. })));
    }

    #[test]
    fn names_that_are_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let right = Subject::Server(vec!["localhost".to_owned()]);
        for wrong in ["", "a b", "-x", "a..b", "*", "a.*.b", "x\n", &"x".repeat(64)] {
            let signed = found(folder.path(), &Subject::Server(vec![wrong.to_owned()]), NOW_MS);
            assert!(matches!(signed, Err(CertificateError::Name(_))), "{wrong:?}: {signed:?}");
        }
        found(folder.path(), &right, NOW_MS).unwrap();
        for wrong in ["", "ca", "server", "../x", "a/b", ".x"] {
            let signed = sign(folder.path(), &Subject::Client(wrong.to_owned()), NOW_MS);
            assert!(matches!(signed, Err(CertificateError::Name(_))), "{wrong:?}: {signed:?}");
        }
        assert!(matches!(found(&folder.path().join("x"), &right, u64::MAX), Err(CertificateError::Clock)));
    }
}
