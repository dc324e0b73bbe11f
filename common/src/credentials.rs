//! How a client shows who it is: the secret it was given, and TLS.
//!
//! Workers and the commands of users connect the same way, so that both are refused for the same reasons.

use std::{
    env, fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

/// What every secret begins with, so that those who look for leaked secrets find it.
pub const SECRET_PREFIX: &str = "earshot_";

/// Random bytes of a secret; it is written as twice as many hexadecimal digits.
pub const SECRET_BYTES: usize = 32;

/// Name of the environment variable that holds a secret where no file does.
pub const SECRET_VARIABLE: &str = "EARSHOT_TOKEN";

/// Bytes of a token or certificate file at most; real ones have a few thousand.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A connection that says with every call who calls.
pub type Line = InterceptedService<Channel, Bearer>;

/// Why there is no connection to be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file that was named cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What should be a secret is none. It is not repeated: it may be one of something else.
    #[error(
        "{0} holds no token; one is {SECRET_PREFIX} and 64 hexadecimal digits, as `coordinator token new` shows it"
    )]
    Secret(String),
    /// TLS files for an address without TLS.
    #[error("{0} is without TLS, so certificates are of no use; write https://")]
    NoTls(String),
    /// Whoever listens on the way would have the secret.
    #[error(
        "a token is not sent to {0} without TLS; write https://, or add --insecure where you trust the network"
    )]
    InTheClear(String),
    /// The address or a certificate cannot be used.
    #[error("{url} cannot be reached this way; is it http://HOST:PORT, and are the certificates PEM files?")]
    Endpoint {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// A random secret that lets its holder in. It is never shown but by [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret of these random bytes.
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        use fmt::Write;
        let mut text = SECRET_PREFIX.to_owned();
        for byte in bytes {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// Reads a secret as it is written, with spaces or line ends around it; none if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.strip_prefix(SECRET_PREFIX)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_secret = digits.len() == 2 * SECRET_BYTES && digits.bytes().all(is_digit);
        is_secret.then(|| Self(text.to_owned()))
    }

    /// The text itself: to be shown once, to be sent, to be hashed.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a client was given to show who it is.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Sent with every call.
    pub secret: Option<Secret>,
    /// Who may vouch for the coordinator, PEM; none: whom the system trusts.
    pub ca: Option<Vec<u8>>,
    /// The client's own certificate and key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Whether the secret may go over a network without TLS.
    pub is_insecure: bool,
}

/// Flags of every command that connects to a coordinator.
#[derive(Debug, Clone, Default, Args)]
pub struct CredentialArgs {
    /// File with the token, where the coordinator asks for one [default: the environment's EARSHOT_TOKEN, if set]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Certificates of those who may vouch for a coordinator at https://, PEM [default: those that the system trusts]
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// Certificate to show to a coordinator that asks for one, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Send the token without TLS, over a network that you trust
    #[arg(long)]
    pub insecure: bool,
}

impl CredentialArgs {
    /// Reads what the files hold, and the environment.
    ///
    /// # Errors
    /// [`CredentialsError::File`], [`CredentialsError::Secret`].
    pub fn credentials(&self) -> Result<Credentials, CredentialsError> {
        Credentials::read(self, env::var(SECRET_VARIABLE).ok().as_deref())
    }
}

impl Credentials {
    /// Reads what the files hold; `variable` is what [`SECRET_VARIABLE`] says, where there is no file.
    ///
    /// # Errors
    /// [`CredentialsError::File`], [`CredentialsError::Secret`].
    pub fn read(args: &CredentialArgs, variable: Option<&str>) -> Result<Self, CredentialsError> {
        let secret = match (&args.token_file, variable) {
            (Some(path), _) => Some(secret_of(path)?),
            (None, Some(text)) => Some(
                Secret::parse(text).ok_or_else(|| CredentialsError::Secret(SECRET_VARIABLE.to_owned()))?,
            ),
            (None, None) => None,
        };
        let identity = match (&args.tls_cert, &args.tls_key) {
            (Some(cert), Some(key)) => Some((contents(cert)?, contents(key)?)),
            _ => None,
        };
        let ca = args.tls_ca.as_deref().map(contents).transpose()?;
        Ok(Self { secret, ca, identity, is_insecure: args.insecure })
    }

    /// How to reach the coordinator at `url`, with TLS if it is `https`.
    ///
    /// # Errors
    /// [`CredentialsError::NoTls`], [`CredentialsError::InTheClear`], [`CredentialsError::Endpoint`].
    pub fn endpoint(&self, url: &str) -> Result<Endpoint, CredentialsError> {
        let failed = |source| CredentialsError::Endpoint { url: url.to_owned(), source };
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(failed)?;
        if endpoint.uri().scheme_str() == Some("https") {
            return endpoint.tls_config(self.tls()).map_err(failed);
        }
        if self.ca.is_some() || self.identity.is_some() {
            return Err(CredentialsError::NoTls(url.to_owned()));
        }
        if self.secret.is_some() && !self.is_insecure && !is_loopback(endpoint.uri()) {
            return Err(CredentialsError::InTheClear(url.to_owned()));
        }
        Ok(endpoint)
    }

    /// Says with every call on `channel` who calls.
    pub fn line(&self, channel: Channel) -> Line {
        let bearer = self.secret.as_ref().and_then(|secret| {
            // Letters and digits always make a header.
            let mut value: MetadataValue<Ascii> = format!("Bearer {}", secret.reveal()).parse().ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        InterceptedService::new(channel, Bearer(bearer))
    }

    fn tls(&self) -> ClientTlsConfig {
        let tls = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match &self.identity {
            Some((cert, key)) => tls.identity(Identity::from_pem(cert, key)),
            None => tls,
        }
    }
}

/// Adds the secret to calls.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(..)")
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Reads a coordinator's URL as it is given on the command line.
///
/// # Errors
/// What would be right, for people.
pub fn coordinator_url(text: &str) -> Result<String, String> {
    const EXAMPLE: &str =
        "give it as http://HOST:PORT, or https:// with TLS, for example http://127.0.0.1:7070";
    let url: Uri = text.parse().map_err(|error| format!("{error}; {EXAMPLE}"))?;
    match (url.scheme_str(), url.host()) {
        (Some("http" | "https"), Some(_)) => Ok(text.to_owned()),
        _ => Err(EXAMPLE.to_owned()),
    }
}

/// Whether a URL is of this machine itself. Names are not looked up: what they mean may change until the call.
fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn secret_of(path: &Path) -> Result<Secret, CredentialsError> {
    let bytes = contents(path)?;
    let secret = std::str::from_utf8(&bytes).ok().and_then(Secret::parse);
    secret.ok_or_else(|| CredentialsError::Secret(path.display().to_string()))
}

fn contents(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    let read = || {
        if fs::metadata(path)?.len() > FILE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it is far too large for what it should be",
            ));
        }
        fs::read(path)
    };
    read().map_err(|source| CredentialsError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_is_written_and_never_shown() {
        let secret = Secret::new([0xa5; SECRET_BYTES]);
        assert_eq!(Secret::parse(&format!(" {}\n", secret.reveal())), Some(secret.clone()));
        assert_eq!(secret.reveal().len(), SECRET_PREFIX.len() + 64);
        for wrong in
            ["", "earshot_", &secret.reveal()[1..], &format!("{}0", secret.reveal()), &"x".repeat(72)]
        {
            assert_eq!(Secret::parse(wrong), None, "{wrong}");
        }
        let credentials = Credentials { secret: Some(secret), ..Credentials::default() };
        assert!(!format!("{credentials:?}").contains("a5a5"), "{credentials:?}");
    }

    fn check(url: &str, change: impl FnOnce(&mut Credentials), expected: Result<(), &str>) {
        let mut credentials =
            Credentials { secret: Some(Secret::new([1; SECRET_BYTES])), ..Credentials::default() };
        change(&mut credentials);
        match (credentials.endpoint(url), expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{url}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_secret_does_not_leave_the_machine_without_tls() {
        check("http://127.0.0.1:7070", |_| (), Ok(()));
        check("http://[::1]:7070", |_| (), Ok(()));
        check("http://localhost:7070", |_| (), Ok(()));
        check("http://10.0.0.1:7070", |_| (), Err("without TLS"));
        check("http://localhost.example:7070", |_| (), Err("without TLS"));
        check("http://10.0.0.1:7070", |credentials| credentials.is_insecure = true, Ok(()));
        check("http://10.0.0.1:7070", |credentials| credentials.secret = None, Ok(()));
        check("http://127.0.0.1:7070", |credentials| credentials.ca = Some(vec![]), Err("write https://"));
        check("https://10.0.0.1:7070", |credentials| credentials.ca = Some(b"-".to_vec()), Ok(()));
        let broken =
            |credentials: &mut Credentials| credentials.identity = Some((b"-".to_vec(), b"-".to_vec()));
        check("https://10.0.0.1:7070", broken, Err("PEM files"));
    }

    #[test]
    fn files_win_over_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let [of_file, of_variable] = [1, 2].map(|byte| Secret::new([byte; SECRET_BYTES]));
        let path = folder.path().join("token");
        fs::write(&path, format!("{}\n", of_file.reveal())).unwrap();
        let read = |args, variable| Credentials::read(&args, variable);
        let token = |path: &Path| CredentialArgs { token_file: Some(path.to_owned()), ..Default::default() };
        let both = read(token(&path), Some(of_variable.reveal())).unwrap();
        assert_eq!(both.secret, Some(of_file));
        let variable = read(CredentialArgs::default(), Some(of_variable.reveal())).unwrap();
        assert_eq!(variable.secret.as_ref(), Some(&of_variable));

        fs::write(&path, "hunter2").unwrap();
        let error = read(token(&path), None).unwrap_err().to_string();
        assert!(error.contains("holds no token") && !error.contains("hunter2"), "{error}");
        assert!(matches!(read(token(folder.path()), None), Err(CredentialsError::File { .. })));
    }
}
