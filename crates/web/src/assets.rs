//! Style, script and icon: in the binary, under names that change with what they hold.

use axum::{
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use xxhash_rust::xxh3::xxh3_64;

/// A file that pages need.
struct Asset {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

const ASSETS: [Asset; 3] = [
    Asset { name: "style.css", kind: "text/css; charset=utf-8", text: include_str!("../assets/style.css") },
    Asset { name: "page.js", kind: "text/javascript; charset=utf-8", text: include_str!("../assets/page.js") },
    Asset { name: "icon.svg", kind: "image/svg+xml", text: include_str!("../assets/icon.svg") },
];

/// Returns the path of a file: it changes with its content, so that it can be kept for ever.
pub(crate) fn path(name: &str) -> String {
    let hash = ASSETS.iter().find(|asset| asset.name == name).map_or(0, |asset| xxh3_64(content(asset).as_bytes()));
    format!("/assets/{:08x}/{name}", hash as u32)
}

/// Returns what a file holds. Charts bring their own style.
fn content(asset: &Asset) -> String {
    if asset.name == "style.css" { format!("{}{}", longshore_charts::STYLE, asset.text) } else { asset.text.to_owned() }
}

/// Serves a file.
pub(crate) async fn serve(Path((_, name)): Path<(String, String)>) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else { return StatusCode::NOT_FOUND.into_response() };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    (headers, content(asset)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_assets_together_have_at_most_sixty_kilobytes() {
        let bytes: usize = ASSETS.iter().map(|asset| content(asset).len()).sum();
        assert!(bytes <= 60_000, "{bytes} bytes");
        assert_ne!(path("style.css"), path("page.js"));
    }
}
