//! A mock broker whose every knob can be turned, for tests: rdkafka's own does not know the requests of KIP-848.

use std::collections::BTreeMap;

use rdkafka::bindings as c;

use super::Native;
use super::data::{c_text, owned_text};

/// The API key of ConsumerGroupHeartbeat in Kafka's protocol.
pub(crate) const CONSUMER_GROUP_HEARTBEAT: i16 = 68;

/// A broker that lives as long as this value.
pub(crate) struct Mock {
    client: Native,
}

impl Mock {
    pub(crate) fn start() -> Mock {
        let properties = [("test.mock.num.brokers", "1"), ("group.id", "of-the-mock")];
        let properties: BTreeMap<String, String> =
            properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Mock { client: Native::new(&properties).expect("the properties are good") }
    }

    fn cluster(&self) -> *mut c::rd_kafka_mock_cluster_t {
        // SAFETY: the client is valid and was created with a mock cluster, which it owns.
        let cluster = unsafe { c::rd_kafka_handle_mock_cluster(self.client.client) };
        assert!(!cluster.is_null());
        cluster
    }

    pub(crate) fn bootstrap(&self) -> String {
        // SAFETY: the cluster is valid; the text belongs to it and is copied.
        unsafe { owned_text(c::rd_kafka_mock_cluster_bootstraps(self.cluster())) }
    }

    pub(crate) fn create_topic(&self, topic: &str, partitions: i32) {
        let name = c_text(topic);
        // SAFETY: cluster and text are valid.
        let code = unsafe { c::rd_kafka_mock_topic_create(self.cluster(), name.as_ptr(), partitions, 1) };
        assert_eq!(code, c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
    }

    /// Nobody leads this partition from now on.
    pub(crate) fn take_leader(&self, topic: &str, partition: i32) {
        let name = c_text(topic);
        // SAFETY: cluster and text are valid.
        unsafe { c::rd_kafka_mock_partition_set_leader(self.cluster(), name.as_ptr(), partition, -1) };
    }

    /// Takes a request away from the broker.
    pub(crate) fn unlearn(&self, api_key: i16) {
        // SAFETY: the cluster is valid.
        unsafe { c::rd_kafka_mock_set_apiversion(self.cluster(), api_key, -1, -1) };
    }

    /// Lets the next requests of this kind fail.
    pub(crate) fn fail(&self, api_key: i16, codes: &[c::rd_kafka_resp_err_t]) {
        // SAFETY: the cluster is valid; the array holds as many codes as is told and is copied.
        unsafe { c::rd_kafka_mock_push_request_errors_array(self.cluster(), api_key, codes.len(), codes.as_ptr()) };
    }
}
