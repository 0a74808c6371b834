//! Datums made by hand and a schema registry that answers over real HTTP: what the tests of this folder share.
//!
//! The bytes are written as the specification of Avro says, by nobody's encoder, so that decoding is tested against
//! something that cannot share its mistakes.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Writes an `int` or a `long`.
pub(super) fn long(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = Vec::new();
    while rest > 0x7f {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// Writes `bytes` or, given text, a `string`.
pub(super) fn text(value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [long(value.len() as i64), value.to_vec()].concat()
}

/// Puts Confluent's header before a datum.
pub(super) fn framed(id: u32, datum: &[u8]) -> Vec<u8> {
    [&[0_u8][..], &id.to_be_bytes()[..], datum].concat()
}

/// A schema registry on a port of this machine, until the test ends.
pub(super) struct FakeRegistry {
    /// Where it listens.
    pub(super) url: String,
    asked: Arc<AtomicUsize>,
}

impl FakeRegistry {
    /// Answers the n-th request, counted from zero, with the status and the body that `answer` gives.
    pub(super) fn start(answer: impl Fn(usize, &str) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut chunk = [0; 1024];
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut chunk) {
                        Ok(0) | Err(_) => break,
                        Ok(read) => request.extend_from_slice(&chunk[..read]),
                    }
                }
                let (status, body) = answer(count.fetch_add(1, Ordering::SeqCst), &String::from_utf8_lossy(&request));
                let head = format!(
                    "HTTP/1.1 {status} Said\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
            }
        });
        Self { url, asked }
    }

    /// Knows these schemas and no others.
    pub(super) fn of(schemas: Vec<(u32, &'static str)>) -> Self {
        Self::start(move |_, request| {
            let known = schemas.iter().find(|(id, _)| request.starts_with(&format!("GET /schemas/ids/{id} ")));
            match known {
                Some((_, schema)) => (200, answer_of(schema)),
                None => (404, r#"{"error_code":40403,"message":"Schema 9 not found"}"#.to_string()),
            }
        })
    }

    /// Returns how many requests there were.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// The body that carries a schema.
pub(super) fn answer_of(schema: &str) -> String {
    serde_json::json!({ "schema": schema }).to_string()
}
