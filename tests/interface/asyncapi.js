// Reads an AsyncAPI document with its makers' own parser; anything graver than a hint fails.
const fs = require("fs");
const { Parser } = require("@asyncapi/parser");

new Parser().parse(fs.readFileSync(process.argv[2], "utf8")).then(({ document, diagnostics }) => {
  const grave = diagnostics.filter((one) => one.severity < 2);
  for (const one of grave) console.error(`${one.path.join(".")}: ${one.message}`);
  process.exit(document && grave.length === 0 ? 0 : 1);
});
