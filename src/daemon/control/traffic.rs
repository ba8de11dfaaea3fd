//! `GET /v1/traffic`: what has gone to and come from each remote node.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use crate::daemon::Handles;
use crate::daemon::traffic::passed;
use crate::io::netlink::meters::{self, Meter};
use crate::view;

pub(super) async fn show(State(handles): State<Handles>) -> Response {
    let (counted, numbers, listed) = tokio::join!(handles.traffic.read(), handles.numbers(), handles.listed());
    let (ready, ready_reason) = handles.readiness(numbers.ready, &numbers.ready_reason);
    let meters = meters::devices(numbers.devices.clone()).await.unwrap_or_default();
    let mut traffic = view::Traffic {
        node: handles.identity.name.clone(),
        ready,
        ready_reason,
        status: handles.traffic.status().shown,
        devices: meters.into_iter().map(drops).collect(),
        ..view::Traffic::default()
    };
    for peer in listed.unwrap_or_default() {
        *traffic.sessions.entry(peer.status.state.name().to_owned()).or_default() += 1;
    }
    if let Some(counted) = counted {
        traffic.clock = counted.clock;
        traffic.unmatched = passed(&counted.totals.unmatched);
        traffic.nodes = counted.nodes();
    }
    Json(traffic).into_response()
}

fn drops(meter: Meter) -> view::DeviceDrops {
    view::DeviceDrops {
        device: meter.name,
        receive_errors: meter.rx_errors,
        receive_dropped: meter.rx_dropped,
        transmit_errors: meter.tx_errors,
        transmit_dropped: meter.tx_dropped,
    }
}
