// A place for the page: asks whoever shows it for a token.
if (parent !== window) {
  parent.postMessage({ type: "konstruct:token?", reason: "start" }, "*");
}
