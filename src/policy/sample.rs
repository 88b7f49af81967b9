//! The policies that `cloakroom init` writes.

/// Each file's name and text.
pub const FILES: &[(&str, &str)] = &[
    ("auditor.cedar", include_str!("sample/auditor.cedar")),
    ("gateway.cedar", include_str!("sample/gateway.cedar")),
    ("operator.cedar", include_str!("sample/operator.cedar")),
    ("payments.cedar", include_str!("sample/payments.cedar")),
];
