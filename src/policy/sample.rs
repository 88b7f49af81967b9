//! The policies that `cloakroom init` writes, and the test of them.

/// Each file's name and text.
pub const FILES: &[(&str, &str)] = &[
    ("auditor.cedar", include_str!("sample/auditor.cedar")),
    ("gateway.cedar", include_str!("sample/gateway.cedar")),
    ("operator.cedar", include_str!("sample/operator.cedar")),
    ("payments.cedar", include_str!("sample/payments.cedar")),
];

/// The file of expected decisions that is written beside them, and its text.
pub const TESTS: (&str, &str) = ("tests.toml", include_str!("sample/tests.toml"));
