//! The JSON bodies of answers, member for member and in the order of Kafka Connect 4.3.1.

use std::collections::BTreeMap;

use model::{Config, Key};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use supervisor::{
    ConnectorInfo, ConnectorStatus, Definition, Placed, PluginInfo, TaskInfo, TaskStatus, Validated, Validation,
};

/// `ServerInfo`.
#[derive(Serialize)]
pub(crate) struct Server<'a> {
    pub(crate) version: &'a str,
    pub(crate) commit: &'a str,
    pub(crate) kafka_cluster_id: Option<String>,
}

/// `WorkerStatus`.
#[derive(Serialize)]
pub(crate) struct Health {
    pub(crate) status: &'static str,
    pub(crate) message: &'static str,
}

/// `ConnectorInfo`.
#[derive(Serialize)]
pub(crate) struct Info {
    name: String,
    config: Config,
    tasks: Vec<TaskName>,
    r#type: &'static str,
}

/// `ConnectorTaskId`.
#[derive(Serialize)]
pub(crate) struct TaskName {
    connector: String,
    task: usize,
}

impl From<ConnectorInfo> for Info {
    fn from(info: ConnectorInfo) -> Info {
        let tasks = info.tasks.iter().map(|task| TaskName { connector: info.name.clone(), task: *task }).collect();
        Info { tasks, name: info.name, config: info.config, r#type: info.role }
    }
}

/// `TaskInfo`.
#[derive(Serialize)]
pub(crate) struct Task {
    id: TaskName,
    config: Config,
}

impl From<TaskInfo> for Task {
    fn from(info: TaskInfo) -> Task {
        Task { id: TaskName { connector: info.id.connector, task: info.id.task }, config: info.config }
    }
}

/// `ConnectorStateInfo.AbstractState`.
#[derive(Serialize)]
pub(crate) struct StateBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<usize>,
    state: &'static str,
    worker_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
}

impl StateBody {
    fn of(id: Option<usize>, placed: Placed) -> StateBody {
        let Placed { state, worker_id, version, trace } = placed;
        StateBody { id, state: state.as_str(), worker_id, version, trace }
    }
}

impl From<TaskStatus> for StateBody {
    fn from(status: TaskStatus) -> StateBody {
        StateBody::of(Some(status.task), status.placed)
    }
}

/// `ConnectorStateInfo`.
#[derive(Serialize)]
pub(crate) struct Status {
    name: String,
    connector: StateBody,
    tasks: Vec<StateBody>,
    r#type: &'static str,
}

impl From<ConnectorStatus> for Status {
    fn from(status: ConnectorStatus) -> Status {
        Status {
            name: status.name,
            connector: StateBody::of(None, status.connector),
            tasks: status.tasks.into_iter().map(StateBody::from).collect(),
            r#type: status.role,
        }
    }
}

/// What `GET /connectors?expand=` says about one connector.
#[derive(Serialize, Default)]
pub(crate) struct Expanded {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) info: Option<Info>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Status>,
}

/// Connectors by name.
pub(crate) type ExpandedAll = BTreeMap<String, Expanded>;

/// `PluginInfo`.
#[derive(Serialize)]
pub(crate) struct PluginBody {
    class: String,
    r#type: &'static str,
    version: String,
}

impl From<PluginInfo> for PluginBody {
    fn from(plugin: PluginInfo) -> PluginBody {
        PluginBody { class: plugin.class, r#type: plugin.role.as_str(), version: plugin.version }
    }
}

/// `ConfigKeyInfo`.
#[derive(Serialize)]
pub(crate) struct KeyBody {
    name: String,
    r#type: &'static str,
    required: bool,
    default_value: Option<String>,
    importance: &'static str,
    documentation: String,
    group: Option<String>,
    order_in_group: i32,
    width: &'static str,
    display_name: String,
    dependents: Vec<String>,
}

impl From<&Key> for KeyBody {
    fn from(key: &Key) -> KeyBody {
        KeyBody::from(Definition::of(key))
    }
}

impl From<Definition> for KeyBody {
    fn from(definition: Definition) -> KeyBody {
        KeyBody {
            r#type: definition.kind.as_str(),
            required: definition.required,
            default_value: definition.default_value,
            importance: definition.importance.as_str(),
            documentation: definition.documentation,
            group: definition.group,
            order_in_group: definition.order,
            width: definition.width.as_str(),
            display_name: definition.display_name,
            dependents: definition.dependents,
            name: definition.name,
        }
    }
}

/// `ConfigInfos`.
pub(crate) struct ConfigInfos(pub(crate) Validation);

/// `ConfigValueInfo`.
#[derive(Serialize)]
struct ValueBody {
    name: String,
    value: Option<String>,
    recommended_values: Vec<String>,
    errors: Vec<String>,
    visible: bool,
}

/// `ConfigInfo`.
#[derive(Serialize)]
struct ConfigBody {
    definition: Option<KeyBody>,
    value: ValueBody,
}

impl From<&Validated> for ConfigBody {
    fn from(validated: &Validated) -> ConfigBody {
        let validated = validated.clone();
        ConfigBody {
            definition: validated.definition.map(KeyBody::from),
            value: ValueBody {
                name: validated.name,
                value: validated.value,
                recommended_values: validated.recommended,
                errors: validated.errors,
                visible: validated.visible,
            },
        }
    }
}

impl Serialize for ConfigInfos {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let validation = &self.0;
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("name", &validation.class)?;
        map.serialize_entry("error_count", &validation.errors().count())?;
        map.serialize_entry("groups", &validation.groups())?;
        map.serialize_entry("configs", &validation.configs.iter().map(ConfigBody::from).collect::<Vec<_>>())?;
        map.end()
    }
}
