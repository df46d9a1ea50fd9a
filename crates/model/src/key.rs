//! One documented option of a configuration: name, type, default, check, and whether it does anything yet.

/// The type of a key's value, as `org.apache.kafka.common.config.ConfigDef.Type` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    String,
    /// 32-bit number.
    Int,
    /// 64-bit number.
    Long,
    /// 16-bit number.
    Short,
    /// Floating point number.
    Double,
    /// `true` or `false`, in any case.
    Boolean,
    /// Comma-separated texts.
    List,
    /// The name of a plug-in.
    Class,
    /// Text that is never shown.
    Password,
}

impl Kind {
    /// The constant of `ConfigDef.Type`, as REST shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::String => "STRING",
            Kind::Int => "INT",
            Kind::Long => "LONG",
            Kind::Short => "SHORT",
            Kind::Double => "DOUBLE",
            Kind::Boolean => "BOOLEAN",
            Kind::List => "LIST",
            Kind::Class => "CLASS",
            Kind::Password => "PASSWORD",
        }
    }
}

/// What holds when a key is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// It must be given.
    Required,
    /// Nothing (Java's null).
    Null,
    /// This text.
    Text(&'static str),
}

/// Which values are good, beyond the type.
#[derive(Debug, Clone, Copy)]
pub enum Check {
    /// All.
    Any,
    /// These texts.
    OneOf(&'static [&'static str]),
    /// These texts in any case (`ConfigDef.CaseInsensitiveValidString`).
    OneOfIgnoringCase(&'static [&'static str]),
    /// Numbers from this one up.
    AtLeast(i64),
    /// Numbers between the two, inclusive.
    Between(i64, i64),
    /// Not the empty text.
    NotEmpty,
    /// What the function accepts; its error is the end of the sentence `Invalid value V for configuration K: `.
    With(fn(&str) -> Result<(), String>),
}

/// What a key does in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// What its documentation says.
    Works,
    /// Accepted and checked, but nothing yet; a value other than the default is warned about. The text says what is
    /// missing.
    NotYet(&'static str),
    /// Accepted without a warning because there is nothing to do here; the text says why.
    Ignored(&'static str),
}

/// Who invented the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Kafka Connect or its S3 sink: name, default and meaning are theirs.
    Upstream,
    /// sluice: an addition that is never needed.
    Sluice,
}

/// `ConfigDef.Importance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// HIGH
    High,
    /// MEDIUM
    Medium,
    /// LOW
    Low,
}

impl Importance {
    /// The constant as REST shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Importance::High => "HIGH",
            Importance::Medium => "MEDIUM",
            Importance::Low => "LOW",
        }
    }
}

/// `ConfigDef.Width`, a hint for forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// NONE
    None,
    /// SHORT
    Short,
    /// MEDIUM
    Medium,
    /// LONG
    Long,
}

impl Width {
    /// The constant as REST shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Width::None => "NONE",
            Width::Short => "SHORT",
            Width::Medium => "MEDIUM",
            Width::Long => "LONG",
        }
    }
}

/// One option. Declared once, as a `const` beside its reader:
///
/// ```
/// use model::{Check, Importance, Key, Kind};
/// pub const FLUSH_SIZE: Key = Key::new("flush.size", Kind::Int, "Records of a topic-partition before its files are closed.")
///     .required()
///     .group("Connector", 2)
///     .importance(Importance::High);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in a configuration.
    pub name: &'static str,
    /// Type of its value.
    pub kind: Kind,
    /// What it means: unit, range, what it does. Ends with a full stop.
    pub doc: &'static str,
    /// Value when it is not given.
    pub default: DefaultValue,
    /// Which values are good.
    pub check: Check,
    /// What it does in this version.
    pub effect: Effect,
    /// Who invented it.
    pub origin: Origin,
    /// How much it matters.
    pub importance: Importance,
    /// Group and rank in forms.
    pub group: (&'static str, i32),
    /// Width in forms.
    pub width: Width,
    /// Title in forms; the name when empty.
    pub display_name: &'static str,
    /// Keys whose meaning depends on this one.
    pub dependents: &'static [&'static str],
}

impl Key {
    /// A key with no default (null), any value, upstream's, working.
    pub const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Key {
        Key {
            name,
            kind,
            doc,
            default: DefaultValue::Null,
            check: Check::Any,
            effect: Effect::Works,
            origin: Origin::Upstream,
            importance: Importance::Low,
            group: ("Common", 0),
            width: Width::None,
            display_name: "",
            dependents: &[],
        }
    }

    /// It must be given.
    pub const fn required(mut self) -> Key {
        self.default = DefaultValue::Required;
        self
    }

    /// Its value when it is not given.
    pub const fn default(mut self, text: &'static str) -> Key {
        self.default = DefaultValue::Text(text);
        self
    }

    /// Which values are good.
    pub const fn check(mut self, check: Check) -> Key {
        self.check = check;
        self
    }

    /// It is accepted and does nothing yet; `missing` ends the sentence "K has no effect yet: ".
    pub const fn not_yet(mut self, missing: &'static str) -> Key {
        self.effect = Effect::NotYet(missing);
        self
    }

    /// It is accepted and needs nothing; `why` ends the sentence "K is accepted and ignored: ".
    pub const fn ignored(mut self, why: &'static str) -> Key {
        self.effect = Effect::Ignored(why);
        self
    }

    /// It is ours.
    pub const fn ours(mut self) -> Key {
        self.origin = Origin::Sluice;
        self
    }

    /// How much it matters.
    pub const fn importance(mut self, importance: Importance) -> Key {
        self.importance = importance;
        self
    }

    /// Group and rank in forms.
    pub const fn group(mut self, group: &'static str, order: i32) -> Key {
        self.group = (group, order);
        self
    }

    /// Width and title in forms.
    pub const fn shown(mut self, width: Width, display_name: &'static str) -> Key {
        self.width = width;
        self.display_name = display_name;
        self
    }

    /// Keys whose meaning depends on this one.
    pub const fn dependents(mut self, dependents: &'static [&'static str]) -> Key {
        self.dependents = dependents;
        self
    }
}
