//! What a request is answered. `httparse` reads it; it has a head alone, of which a line counts.

/// Bytes of a request's head.
pub const HEAD: usize = 8192;
const FIELDS: usize = 64;

/// What is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The metrics; their head alone, if `true`.
    Metrics(bool),
    /// Status, reason, a field more, text.
    Refusal(&'static str, &'static str, &'static str),
}

const NOT_HTTP: Answer = Answer::Refusal("400 Bad Request", "", "this is no HTTP request\n");
const TOO_LARGE: Answer =
    Answer::Refusal("431 Request Header Fields Too Large", "", "the request's head is too large\n");
const NOT_FOUND: Answer = Answer::Refusal("404 Not Found", "", "the metrics are at /metrics\n");
const READ_ONLY: Answer = Answer::Refusal("405 Method Not Allowed", "Allow: GET, HEAD\r\n", "use GET or HEAD\n");

/// Judges what has come so far; none if there has to come more.
pub fn judge(bytes: &[u8]) -> Option<Answer> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) if bytes.len() < HEAD => None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => Some(TOO_LARGE),
        Err(_) => Some(NOT_HTTP),
        Ok(httparse::Status::Complete(_)) => {
            let path = request.path.and_then(|path| path.split('?').next());
            Some(match (request.method, path) {
                (Some("GET"), Some("/metrics")) => Answer::Metrics(false),
                (Some("HEAD"), Some("/metrics")) => Answer::Metrics(true),
                (_, Some("/metrics")) => READ_ONLY,
                _ => NOT_FOUND,
            })
        }
    }
}

/// Head and text, and how long the head is.
fn whole(status: &str, more: &str, kind: &str, text: &str) -> (Vec<u8>, usize) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{more}Cache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        text.len()
    );
    let len = head.len();
    (format!("{head}{text}").into_bytes(), len)
}

/// Metrics, and how long their head is.
pub fn metrics(text: &str) -> (Vec<u8>, usize) {
    whole("200 OK", "", "text/plain; version=0.0.4; charset=utf-8", text)
}

pub fn refusal(status: &str, more: &str, text: &str) -> Vec<u8> {
    whole(status, more, "text/plain; charset=utf-8", text).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_judged_when_its_head_is_whole() {
        let get = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n";
        for len in 0..get.len() {
            assert_eq!(judge(&get[..len]), None, "{len}");
        }
        assert_eq!(judge(get), Some(Answer::Metrics(false)));
        assert_eq!(judge(b"HEAD /metrics HTTP/1.0\r\n\r\n"), Some(Answer::Metrics(true)));
        assert_eq!(judge(b"GET /metrics?all=1 HTTP/1.1\r\n\r\nbody"), Some(Answer::Metrics(false)));
        assert_eq!(judge(b"POST /metrics HTTP/1.1\r\n\r\n"), Some(READ_ONLY));
        assert_eq!(judge(b"GET / HTTP/1.1\r\n\r\n"), Some(NOT_FOUND));
        assert_eq!(judge(b"GET /metricsx HTTP/1.1\r\n\r\n"), Some(NOT_FOUND));
    }

    #[test]
    fn what_is_no_request_or_too_large_is_told_so() {
        for bytes in [&b"\x16\x03\x01\x02"[..], b"GET\r\n\r\n", b"GET /metrics HTTP/9\r\n\r\n", &[0; 64]] {
            assert_eq!(judge(bytes), Some(NOT_HTTP), "{bytes:?}");
        }
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(FIELDS + 1));
        assert_eq!(judge(many.as_bytes()), Some(TOO_LARGE));
        let long = format!("GET /metrics HTTP/1.1\r\na: {}", "b".repeat(HEAD));
        assert_eq!(judge(&long.as_bytes()[..HEAD]), Some(TOO_LARGE));
        assert_eq!(judge(&long.as_bytes()[..HEAD - 1]), None);
    }
}
