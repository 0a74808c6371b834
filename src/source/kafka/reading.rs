//! The stream of one split: a thread of its own reads and decodes messages, and hands over batches.
//!
//! Guards that a thread that fails, or dies, is never taken for one that has come to the end.

use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use rdkafka::message::Message;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use super::offsets::Range;
use super::reader::{Messages, Readers};
use super::rows::Rows;
use crate::error::{Error, Result};

/// How many batches a thread may be ahead.
const AHEAD: usize = 2;

/// A batch is handed over when its values have so many bytes.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Returns the rows of `range`. Nothing is read before the stream is polled.
pub(super) fn stream(readers: Arc<Readers>, range: Range, rows: Rows, batch_size: usize) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let begin = async move {
        let (sender, receiver) = channel(AHEAD);
        let (ended, end) = oneshot::channel();
        // Not one of the runtime's: it waits for whoever takes its batches, and they may wait for one of those.
        let thread = std::thread::Builder::new().name(format!("kafka-{}-{}", range.topic, range.partition));
        let read = move || {
            let mut taker = Taker { rows, bytes: 0, batch_size: batch_size.max(1), sender };
            let result = readers.read(&range, &mut taker).and_then(|()| taker.hand_over().map(drop));
            // Where nobody listens any more, nobody wants to know.
            let _ = ended.send(result);
        };
        thread.spawn(read).map_err(|e| Error::unavailable(format!("no thread to read Kafka with: {e}")))?;
        Ok::<_, DataFusionError>(futures::stream::try_unfold((receiver, end), next))
    };
    let batches = futures::TryStreamExt::try_flatten(futures::stream::once(begin));
    Box::pin(RecordBatchStreamAdapter::new(schema, batches))
}

type State = (Receiver<RecordBatch>, oneshot::Receiver<Result<()>>);

async fn next((mut receiver, end): State) -> Result<Option<(RecordBatch, State)>, DataFusionError> {
    if let Some(batch) = receiver.recv().await {
        return Ok(Some((batch, (receiver, end))));
    }
    end.await.map_err(|_| Error::internal("a thread that reads Kafka panicked"))??;
    Ok(None)
}

/// Makes batches of messages.
struct Taker {
    rows: Rows,
    bytes: usize,
    batch_size: usize,
    sender: Sender<RecordBatch>,
}

impl Taker {
    /// Hands over what there is; false where nobody wants it.
    fn hand_over(&mut self) -> Result<bool> {
        self.bytes = 0;
        if self.rows.len() == 0 {
            return Ok(!self.sender.is_closed());
        }
        let batch = self.rows.finish()?;
        Ok(self.sender.blocking_send(batch).is_ok())
    }
}

impl Messages for Taker {
    fn take<M: Message>(&mut self, message: &M) -> Result<bool> {
        self.rows.push(message)?;
        self.bytes += message.payload().map_or(0, <[u8]>::len) + message.key().map_or(0, <[u8]>::len);
        if self.rows.len() >= self.batch_size || self.bytes >= BATCH_BYTES {
            return self.hand_over();
        }
        Ok(true)
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}
