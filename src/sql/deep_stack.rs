//! Parsing and planning on a stack that holds the deepest statement.
//!
//! Both call themselves for each level of a statement, and a level may take tens of kilobytes, while a thread of an async
//! runtime has two megabytes. So they have a thread of their own for as long as they take. What it does not use of its
//! stack costs nothing. How deep a statement may be is checked before ([`super::nesting`]).

use std::future::Future;
use std::thread::Builder;

use tokio::runtime::Handle;

use crate::error::{Error, ErrorKind, Result};

const STACK_BYTES: usize = 128 * 1024 * 1024;
const NAME: &str = "millstream-planning";

/// Does `work` and waits for it.
///
/// # Errors
/// What `work` returns; `ResourcesExhausted` where there is no thread to be had; `Internal` where it panicked.
pub(super) fn deep<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = Builder::new().name(NAME.to_string()).stack_size(STACK_BYTES).spawn_scoped(scope, work);
        thread.map_err(no_thread)?.join().unwrap_or_else(|_| Err(panicked()))
    })
}

/// Does `work` while the caller's thread is free for others. Outside of a runtime it is done where it is asked for.
///
/// # Errors
/// As [`deep`].
pub(crate) async fn deep_async<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let Ok(runtime) = Handle::try_current() else {
        return work.await;
    };
    let (done, wait) = tokio::sync::oneshot::channel();
    let run = move || {
        // Nobody waits any more where the caller was dropped.
        let _ = done.send(runtime.block_on(work));
    };
    Builder::new().name(NAME.to_string()).stack_size(STACK_BYTES).spawn(run).map_err(no_thread)?;
    wait.await.unwrap_or_else(|_| Err(panicked()))
}

fn no_thread(error: std::io::Error) -> Error {
    Error::new(ErrorKind::ResourcesExhausted, format!("no thread to plan a statement on: {error}; allow more threads"))
        .with_source(error)
}

fn panicked() -> Error {
    Error::internal("planning the statement panicked: please report it, with the statement")
}
