// Bundles src/ into the package's static folder, with the licence of what is bundled and hashes of what went in and came out.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "..", "src", "brodmann", "viewer", "static");
mkdirSync(out, { recursive: true });

await build({
  absWorkingDir: here,
  entryPoints: ["src/main.ts"],
  outfile: join(out, "app.js"),
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  legalComments: "none",
  charset: "ascii",
});
copyFileSync(join(here, "src", "index.html"), join(out, "index.html"));
copyFileSync(join(here, "src", "app.css"), join(out, "app.css"));
writeFileSync(
  join(out, "THIRD_PARTY.txt"),
  "app.js contains OpenSeadragon (https://openseadragon.github.io), under this licence:\n\n" +
    readFileSync(join(here, "node_modules", "openseadragon", "LICENSE.txt"), "utf8"),
);

function digest(names, folder) {
  const hash = createHash("sha256");
  for (const name of names) {
    hash.update(name + "\0");
    hash.update(readFileSync(join(folder, name)));
  }
  return hash.digest("hex");
}

const sources = ["build.mjs", "package-lock.json", "package.json", "tsconfig.json"].concat(
  readdirSync(join(here, "src")).map((name) => `src/${name}`),
);
const built = ["THIRD_PARTY.txt", "app.css", "app.js", "index.html"];
const hashes = { sources: digest(sources.sort(), here), built: digest(built, out) };
writeFileSync(join(out, "hashes.json"), JSON.stringify(hashes, null, 1) + "\n");
