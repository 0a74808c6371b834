//! A schema registry, asked over HTTP which schema an id stands for.
//!
//! An id never comes to stand for another schema, so what was answered once is kept. That there is no such id is not
//! kept: it may be there a moment later. Guards that no message, no log and no debug output has credentials in it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderValue, Uri};

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::options::bad_value;

/// The option that has the credentials, for messages.
const AUTH_OPTION: &str = "schemaRegistryAuth";

/// The option that has the URL.
const URL_OPTION: &str = "schemaRegistryUrl";

const ACCEPT: &str = "application/vnd.schemaregistry.v1+json";

/// The code of the answer that there is no such schema, under status 404.
const NO_SCHEMA: i64 = 40_403;

/// How long to wait before the second try; each wait is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long one try may take.
const SHORTEST_TRY: Duration = Duration::from_millis(100);
const LONGEST_TRY: Duration = Duration::from_secs(10);

/// A schema registry with Confluent's interface, for all threads that decode.
pub struct SchemaRegistry {
    agent: Agent,
    /// Without credentials.
    url: String,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    known: Mutex<HashMap<u32, Arc<str>>>,
}

/// What one try gives.
enum Answer {
    Schema(String),
    NoSchema,
    /// The registry is there, or not, but cannot answer now: for this reason.
    NotNow(String),
}

impl SchemaRegistry {
    /// Makes a registry at `url`. `auth` is `user:password`; without it, what the URL has before an `@` is taken. A
    /// registry that does not answer is asked again until `timeout` has passed. Nothing is asked yet.
    ///
    /// # Errors
    /// `InvalidOption` where either is not of its form, `Unsupported` where the URL is one of https.
    pub fn new(url: &str, auth: Option<&str>, timeout: Duration) -> Result<Self> {
        let (url, within) = without_credentials(url)?;
        let authorization = auth.or(within.as_deref()).map(basic).transpose()?;
        let config = Agent::config_builder();
        #[cfg(feature = "kafka-ssl")]
        let config = config.tls_config(
            ureq::tls::TlsConfig::builder()
                .provider(ureq::tls::TlsProvider::NativeTls)
                .root_certs(ureq::tls::RootCerts::PlatformVerifier)
                .build(),
        );
        let config = config
            // statuses are told apart here
            .http_status_as_error(false)
            // what the environment says of proxies is for the web; a registry stands beside its brokers
            .proxy(None)
            .user_agent("millstream")
            .build();
        Ok(Self {
            agent: Agent::new_with_config(config),
            url,
            authorization,
            timeout,
            clock: Arc::new(SystemClock),
            known: Mutex::default(),
        })
    }

    /// Returns the schema that `id` stands for, or `None` where the registry says that there is none. Blocks while it
    /// asks.
    ///
    /// # Errors
    /// `Unavailable` where the registry cannot be reached, is not one, or does not let us in; `Unsupported` where the
    /// schema is not Avro's, or refers to others.
    pub fn schema(&self, id: u32) -> Result<Option<Arc<str>>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if known.is_some() {
            return Ok(known);
        }
        // other threads go on meanwhile, and the same question twice does no harm
        let Some(schema) = self.ask(id)? else {
            return Ok(None);
        };
        let schema: Arc<str> = schema.into();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&schema));
        Ok(Some(schema))
    }

    /// Asks until there is an answer, or no time is left.
    fn ask(&self, id: u32) -> Result<Option<String>> {
        let timeout_ms = i64::try_from(self.timeout.as_millis()).unwrap_or(i64::MAX);
        let deadline_ms = self.clock.now_ms().saturating_add(timeout_ms);
        let left = || {
            let left_ms = deadline_ms.saturating_sub(self.clock.now_ms());
            Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let reason = match self.try_once(id, left().clamp(SHORTEST_TRY, LONGEST_TRY))? {
                Answer::Schema(schema) => return Ok(Some(schema)),
                Answer::NoSchema => return Ok(None),
                Answer::NotNow(reason) => reason,
            };
            if left() <= pause {
                let reason = format!("{reason}, for {} ms", self.timeout.as_millis());
                return Err(self.unavailable(id, &reason, "see that it runs there and can be reached from here"));
            }
            tracing::warn!("the schema registry at {}: {reason}; asking again in {pause:?}", self.url);
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn try_once(&self, id: u32, within: Duration) -> Result<Answer> {
        let mut request = self.agent.get(format!("{}/schemas/ids/{id}", self.url)).header("Accept", ACCEPT);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization.clone());
        }
        let mut response = match request.config().timeout_global(Some(within)).build().call() {
            Ok(response) => response,
            Err(error) => return self.unanswered(id, &error),
        };
        let status = response.status().as_u16();
        let mut body = || response.body_mut().read_to_string();
        match status {
            200 => match body() {
                Ok(body) => self.schema_in(id, &body).map(Answer::Schema),
                Err(error) => self.unanswered(id, &error),
            },
            404 => match body() {
                Ok(body) if error_code(&body) == Some(NO_SCHEMA) => Ok(Answer::NoSchema),
                _ => Err(self.no_registry(id, "it answers 404")),
            },
            401 | 403 => {
                let remedy = match self.authorization {
                    Some(_) => format!("the credentials of the option {AUTH_OPTION} (user:password) do not let us in"),
                    None => format!("set the option {AUTH_OPTION} to user:password"),
                };
                Err(self.unavailable(id, &format!("it answers {status}"), &remedy))
            }
            408 | 429 | 500..=599 => Ok(Answer::NotNow(format!("it answers {status}"))),
            _ => Err(self.no_registry(id, &format!("it answers {status}"))),
        }
    }

    /// Judges why there was no answer: whether another try can help.
    fn unanswered(&self, id: u32, error: &ureq::Error) -> Result<Answer> {
        use ureq::Error as Failure;
        match error {
            Failure::TlsRequired => Err(no_https(&self.url)),
            Failure::BadUri(_) | Failure::Http(_) | Failure::TooManyRedirects | Failure::RedirectFailed => {
                Err(self.no_registry(id, &error.to_string()))
            }
            _ => Ok(Answer::NotNow(error.to_string())),
        }
    }

    /// Takes the schema out of an answer.
    fn schema_in(&self, id: u32, body: &str) -> Result<String> {
        let answer: Option<Value> = serde_json::from_str(body).ok();
        let Some(schema) = answer.as_ref().and_then(|answer| answer.get("schema")?.as_str()) else {
            return Err(self.no_registry(id, "its answer has no schema in it"));
        };
        let part = |name: &str| answer.as_ref().and_then(|answer| answer.get(name));
        if let Some(kind) = part("schemaType").and_then(Value::as_str)
            && !kind.eq_ignore_ascii_case("AVRO")
        {
            return Err(Error::unsupported(format!(
                "schema {id} of the registry at {} is {kind}, not Avro; values of that kind cannot be read",
                self.url
            )));
        }
        if let Some([first, ..]) = part("references").and_then(Value::as_array).map(Vec::as_slice) {
            let name = first.get("name").and_then(Value::as_str).unwrap_or("another");
            return Err(Error::unsupported(format!(
                "schema {id} of the registry at {} refers to other schemas (to '{name}'), which is not followed; \
                 register it with the types it refers to written out",
                self.url
            )));
        }
        Ok(schema.to_string())
    }

    fn no_registry(&self, id: u32, reason: &str) -> Error {
        self.unavailable(id, reason, &format!("see that the option {URL_OPTION} is the URL of a schema registry"))
    }

    fn unavailable(&self, id: u32, reason: &str, remedy: &str) -> Error {
        let url = &self.url;
        Error::unavailable(format!("the schema registry at {url} did not give schema {id}: {reason}; {remedy}"))
    }
}

impl fmt::Debug for SchemaRegistry {
    /// Shows where it is, and no credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchemaRegistry").field("url", &self.url).finish_non_exhaustive()
    }
}

fn error_code(body: &str) -> Option<i64> {
    serde_json::from_str::<Value>(body).ok()?.get("error_code")?.as_i64()
}

/// Without the feature kafka-ssl ureq has no TLS; a redirection can still lead to https.
fn no_https(url: &str) -> Error {
    Error::unsupported(format!(
        "the schema registry at {url} is to be asked over https, which this build cannot; build Millstream \
         with the feature kafka-ssl, or give its http:// URL"
    ))
}

/// Takes the credentials out of a URL, and returns both. What cannot be told apart for sure is refused unseen.
fn without_credentials(url: &str) -> Result<(String, Option<String>)> {
    let expected = "http://host:port";
    let refused = |why: &str| Error::invalid_option(format!("option '{URL_OPTION}' {why}; expected {expected}"));
    let url = url.trim().trim_end_matches('/');
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(refused("does not begin with http://"));
    };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(refused("does not begin with http://"));
    }
    if rest.contains(['?', '#']) {
        return Err(refused("has something behind a '?' or '#'"));
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if path.contains('@') {
        return Err(refused(&format!("has an '@' in its path; credentials are for the option {AUTH_OPTION}")));
    }
    let (credentials, host) = match authority.rsplit_once('@') {
        Some((credentials, host)) => (Some(credentials.to_string()), host),
        None => (None, authority),
    };
    let clean = format!("{}://{host}{path}", scheme.to_ascii_lowercase());
    if scheme.eq_ignore_ascii_case("https") && cfg!(not(feature = "kafka-ssl")) {
        return Err(no_https(&clean));
    }
    match clean.parse::<Uri>() {
        Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) => Ok((clean, credentials)),
        _ => Err(refused(&format!("is no URL: '{clean}'"))),
    }
}

/// Makes the header of `user:password`.
fn basic(credentials: &str) -> Result<HeaderValue> {
    if !credentials.contains(':') {
        return Err(bad_value(AUTH_OPTION, credentials, "user:password"));
    }
    let value = HeaderValue::from_str(&format!("Basic {}", base64(credentials.as_bytes())));
    let mut value = value.map_err(|_| Error::internal("base64 is no header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for letter in 0..4 {
            let six = (bits >> (18 - 6 * letter)) & 63;
            text.push(if letter > three.len() { '=' } else { char::from(LETTERS[six as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::samples::{FakeRegistry, answer_of};
    use super::*;
    use crate::error::ErrorKind;

    const SCHEMA: &str = r#"{"type":"record","name":"r","fields":[{"name":"a","type":"long"}]}"#;

    fn registry(url: &str) -> SchemaRegistry {
        SchemaRegistry::new(url, None, Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn a_schema_is_asked_for_once_and_its_absence_each_time() {
        let server = FakeRegistry::of(vec![(7, SCHEMA)]);
        let registry = registry(&format!("{}/", server.url));
        for _ in 0..3 {
            assert_eq!(registry.schema(7).unwrap().as_deref(), Some(SCHEMA));
        }
        assert_eq!(server.asked(), 1);
        assert_eq!(registry.schema(9).unwrap(), None);
        assert_eq!(registry.schema(9).unwrap(), None);
        assert_eq!(server.asked(), 3);
    }

    #[test]
    fn the_request_is_what_registries_want() {
        let server = FakeRegistry::start(|_, request| {
            let head = request.to_ascii_lowercase();
            assert!(head.starts_with("get /under/schemas/ids/4294967295 http/1.1\r\n"), "{request}");
            let lacks = |line: &str| !head.contains(line);
            if lacks("\r\naccept: application/vnd.schemaregistry.v1+json\r\n") || !lacks("authorization") {
                return (400, String::new());
            }
            (200, answer_of(SCHEMA))
        });
        let registry = registry(&format!("{}/under", server.url));
        assert_eq!(registry.schema(u32::MAX).unwrap().as_deref(), Some(SCHEMA));
    }

    #[test]
    fn a_registry_that_is_starting_is_waited_for() {
        let server = FakeRegistry::start(|number, _| match number {
            0 | 1 => (500, r#"{"error_code":50001}"#.to_string()),
            _ => (200, answer_of(SCHEMA)),
        });
        assert_eq!(registry(&server.url).schema(1).unwrap().as_deref(), Some(SCHEMA));
        assert_eq!(server.asked(), 3);
    }

    #[test]
    fn a_registry_that_stays_down_is_told_with_its_url_and_without_credentials() {
        let server = FakeRegistry::start(|_, _| (503, String::new()));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for host in [server.url.trim_start_matches("http://").to_string(), free.to_string()] {
            let url = format!("http://user:topsecret@{host}");
            let registry = SchemaRegistry::new(&url, None, Duration::from_millis(350)).unwrap();
            let before_ms = SystemClock.now_ms();
            let error = registry.schema(5).unwrap_err();
            assert!(SystemClock.now_ms() - before_ms < 5_000, "it did not give up");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            let told = format!("{error} {registry:?}");
            assert!(told.contains(&format!("http://{host}")) && told.contains("schema 5"), "{told}");
            assert!(!told.contains("topsecret") && !told.contains("user:"), "{told}");
        }
        assert!(server.asked() >= 2, "it was asked {} times", server.asked());
    }

    #[test]
    fn credentials_let_us_in_or_the_option_is_named() {
        let server = FakeRegistry::start(|_, request| {
            let wanted = "basic dXNlcjpzZWNyZXQ=".to_ascii_lowercase();
            match request.to_ascii_lowercase().contains(&format!("authorization: {wanted}")) {
                true => (200, answer_of(SCHEMA)),
                false => (401, String::new()),
            }
        });
        let of = |url: &str, auth| SchemaRegistry::new(url, auth, Duration::from_secs(20)).unwrap();
        assert!(of(&server.url, Some("user:secret")).schema(1).unwrap().is_some());
        let within = server.url.replace("http://", "http://user:secret@");
        assert!(of(&within, None).schema(1).unwrap().is_some());
        for (auth, number) in [(None, 3), (Some("user:wrongsecret"), 4)] {
            let error = of(&server.url, auth).schema(1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.message().contains("schemaRegistryAuth") && error.message().contains("401"), "{error}");
            assert!(!error.message().contains("wrongsecret"), "{error}");
            assert_eq!(server.asked(), number, "asking again does not help");
        }
    }

    #[test]
    fn answers_that_are_no_schema_of_avro_are_told_at_once() {
        let whole = r#"{"schema":"{}","references":[]}"#;
        let table = [
            (200, r#"{"schema":"{}","references":[{"name":"com.x.Y"}]}"#, Some((ErrorKind::Unsupported, "'com.x.Y'"))),
            (200, r#"{"schema":"x","schemaType":"PROTOBUF"}"#, Some((ErrorKind::Unsupported, "PROTOBUF"))),
            (200, "<html>", Some((ErrorKind::Unavailable, "no schema in it"))),
            (404, "<html>", Some((ErrorKind::Unavailable, "404"))),
            (404, r#"{"error_code":40401}"#, Some((ErrorKind::Unavailable, "schemaRegistryUrl"))),
            (400, "", Some((ErrorKind::Unavailable, "400"))),
            (200, whole, None),
        ];
        for (status, body, expected) in table {
            let server = FakeRegistry::start(move |_, _| (status, body.to_string()));
            match (registry(&server.url).schema(1), expected) {
                (Ok(schema), None) => assert_eq!(schema.as_deref(), Some("{}")),
                (Err(error), Some((kind, words))) => {
                    assert_eq!(error.kind(), kind, "{body}");
                    assert!(error.message().contains(words), "{error}");
                }
                (answer, _) => panic!("{body}: {answer:?}"),
            }
            assert_eq!(server.asked(), 1, "{body}");
        }
    }

    #[test]
    fn what_is_no_url_or_no_credentials_is_refused_unseen() {
        let urls = [
            "localhost:8081",
            "ftp://u:topsecret@host",
            "http://",
            "http://u:topsecret@",
            "http://host?token=topsecret",
            "http://u:top/secret@host",
            "http://a b",
        ];
        for url in urls {
            let error = SchemaRegistry::new(url, None, Duration::ZERO).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOption, "{url}");
            assert!(!error.message().contains("topsecret") && !error.message().contains("top/"), "{error}");
        }
        let error = SchemaRegistry::new("http://host", Some("topsecret"), Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert!(!error.message().contains("topsecret"), "{error}");
    }

    #[test]
    fn https_is_refused_before_anything_is_asked() {
        let error = SchemaRegistry::new("https://u:topsecret@host:8081/", None, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("https://host:8081 ") && !error.message().contains("topsecret"), "{error}");
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        let table = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy"), ("~?", "fj8=")];
        for (bytes, text) in table {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
