//! Flows: queries that SQL names, and the order in which they run.
//!
//! A flow that ends by itself runs after those that write what it reads, be it their late rows; flows that never end
//! run side by side. One that fails takes those that read from it with it, and no others.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use futures::future::{BoxFuture, FutureExt, Shared, join_all};

use super::start::QueryRequest;
use super::{Inner, locked};
use crate::error::{Error, Result};

/// A query that SQL named.
#[derive(Clone)]
pub(super) struct Flow {
    pub(super) request: QueryRequest,
    /// The table it writes.
    pub(super) target: String,
    /// The tables it reads, streams and others.
    pub(super) reads: Vec<String>,
    /// Whether it was started (or is not to be).
    pub(super) started: bool,
}

impl Flow {
    /// Makes a flow into `target`, not yet started.
    pub(super) fn new(request: QueryRequest, target: String) -> Self {
        let reads = tables_read(&request.plan);
        Self { request, target, reads, started: false }
    }

    /// Returns its name.
    pub(super) fn name(&self) -> &str {
        &self.request.name
    }

    /// Returns the table that its late rows go to.
    pub(super) fn late_target(&self) -> Option<&str> {
        self.request.late_rows.as_ref().map(|late| late.table.as_str())
    }

    /// Returns whether it writes `table`, be it with its late rows.
    fn writes(&self, table: &str) -> bool {
        self.target == table || self.late_target() == Some(table)
    }

    /// Returns whether it writes what `other` reads.
    fn feeds(&self, other: &Flow) -> bool {
        other.reads.iter().any(|table| self.writes(table))
    }

    /// Says to the sinks that other flows write their tables too.
    fn share(&mut self, is_shared: impl Fn(&str) -> bool) {
        if self.request.path.is_some() && is_shared(&self.target) {
            self.request.options.set("shared", true);
        }
        if let Some(late) = self.request.late_rows.as_mut().filter(|late| late.path.is_some() && is_shared(&late.table))
        {
            late.options.set("shared", true);
        }
    }
}

/// The names of the tables that `plan` scans.
fn tables_read(plan: &LogicalPlan) -> Vec<String> {
    let mut names = Vec::new();
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            names.push(scan.table_name.table().to_string());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    names.sort();
    names.dedup();
    if visited.is_err() { Vec::new() } else { names }
}

type Ended = Shared<BoxFuture<'static, std::result::Result<(), Arc<Error>>>>;

impl Inner {
    /// Runs the flows that were declared and not started, and waits until all have ended.
    ///
    /// # Errors
    /// `InvalidQuery` where flows feed each other in a circle; else the first error that ended one, the others having
    /// gone on.
    pub(super) async fn run_flows(self: &Arc<Self>) -> Result<()> {
        let mut waiting: Vec<Flow> = Vec::new();
        for flow in locked(&self.flows).iter_mut().filter(|flow| !flow.started) {
            flow.started = true;
            waiting.push(flow.clone());
        }
        let order = in_order(&waiting)?;
        let mut ended: BTreeMap<usize, Ended> = BTreeMap::new();
        for index in order {
            let mut flow = waiting[index].clone();
            flow.share(|table| waiting.iter().filter(|f| f.writes(table)).count() > 1);
            let feeding = waiting.iter().enumerate().filter(|(i, f)| *i != index && f.feeds(&flow));
            let feeding: Vec<(String, bool, Ended)> = feeding
                .filter_map(|(i, f)| {
                    Some((f.name().to_string(), f.request.trigger.is_bounded(), ended.get(&i)?.clone()))
                })
                .collect();
            let session = Arc::clone(self);
            let run = async move { session.run_flow(flow, feeding).await.map_err(Arc::new) };
            // Each on a task of its own, so that flows run in parallel.
            let task = tokio::spawn(run);
            let joined = async move {
                task.await.unwrap_or_else(|e| Err(Arc::new(Error::internal(format!("a flow's task failed: {e}")))))
            };
            ended.insert(index, joined.boxed().shared());
        }
        let results = join_all(ended.into_values()).await;
        match results.into_iter().find_map(std::result::Result::err) {
            Some(error) => Err(Error::copy_of(&error)),
            None => Ok(()),
        }
    }

    async fn run_flow(&self, flow: Flow, feeding: Vec<(String, bool, Ended)>) -> Result<()> {
        for (name, bounded, ended) in feeding {
            // A flow that never ends is read while it writes.
            if (bounded || ended.peek().is_some())
                && let Err(error) = ended.await
            {
                return Err(Error::copy_of(&error)
                    .context(format!("flow {} did not run, since flow {name} failed", flow.name())));
            }
        }
        if *self.stopping.borrow() {
            return Ok(());
        }
        let request = flow.request;
        let name = request.name.clone();
        let named = |e: Error| e.context(format!("flow {name}"));
        let query = self.start(request).await.map_err(named)?;
        query.await_termination().await.map_err(named)
    }
}

/// Indexes of `flows`, those that feed others first.
fn in_order(flows: &[Flow]) -> Result<Vec<usize>> {
    let mut order = Vec::with_capacity(flows.len());
    let mut done = vec![false; flows.len()];
    while order.len() < flows.len() {
        let blocked = |i: usize| {
            (0..flows.len()).any(|j| j != i && !done[j] && flows[j].feeds(&flows[i])) || flows[i].feeds(&flows[i])
        };
        let Some(next) = (0..flows.len()).find(|i| !done[*i] && !blocked(*i)) else {
            let circle: Vec<&str> = (0..flows.len()).filter(|i| !done[*i]).map(|i| flows[i].name()).collect();
            return Err(Error::invalid_query(format!(
                "the flows {} feed each other in a circle: none of them can come first",
                circle.join(", ")
            )));
        };
        done[next] = true;
        order.push(next);
    }
    Ok(order)
}
