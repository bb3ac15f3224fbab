// The card of a place, the strip of places that look alike, and the ticks above the section slider.

import type { Place, Ranks, Scene, Sheet } from "./api";

function made<K extends keyof HTMLElementTagNameMap>(tag: K, text = "", kind = ""): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function picture(run: number, rank: number, words: string): HTMLImageElement {
  const image = made("img");
  image.src = `r/${run}/thumb/${rank}`;
  image.alt = words;
  image.draggable = false;
  return image;
}

/** What is known of the marked place. */
export function card(
  holder: HTMLElement, scene: Scene, run: number, place: Place | null, does: { find: () => void; all: boolean },
): void {
  if (!place) {
    const more = scene.remarks.map((remark) => made("p", remark));
    holder.replaceChildren(
      made("h2", "Mark a place"),
      made("p", "Click on the section or on a point of the plane. Draw around points with Lasso, or with Shift held."),
      ...more,
    );
    return;
  }
  const top = made("div", "", "top"), side = made("div");
  if (scene.field_mm !== null) {
    const words = `${scene.field_mm.toFixed(2)} mm of tissue around ${place.id}`;
    const image = picture(run, place.rank, words);
    image.title = words;
    top.append(image);
  }
  const sheet = scene.sheets[place.sheet];
  const find = made("button", "Find similar", "main");
  find.type = "button";
  find.title = "Find places that look like this one (f)";
  find.onclick = does.find;
  side.append(made("h2", place.id), made("p", `${place.mm.map((v) => v.toFixed(2).replace("-", "−")).join(", ")} mm in ${scene.space}`, "mm"), find);
  top.append(side);
  const list = made("dl");
  for (const [name, value] of Object.entries(place.values)) {
    if (name === "section" && value === sheet?.id && place.id.includes(value)) continue;
    list.append(made("dt", name.replaceAll("_", " ")), made("dd", value));
  }
  holder.replaceChildren(top, list);
}

/** Places found, best first. */
export function strip(holder: HTMLElement, scene: Scene, run: number, found: Place[], visit: (place: Place) => void): void {
  if (!found.length) {
    holder.replaceChildren(made("li", "Nothing is left to look among: choose other brains or sections, or a smaller distance.", "none"));
    return;
  }
  const label = ["area", "predicted", "type", "domain"].find((name) => found.some((one) => one.values[name]));
  holder.replaceChildren(...found.map((one, i) => {
    const item = made("li"), button = made("button");
    button.type = "button";
    const sheet = scene.sheets[one.sheet]?.id ?? "";
    if (scene.field_mm !== null) button.append(picture(run, one.rank, `place ${i + 1}, on ${sheet}`));
    const line = made("b");
    line.append(made("span", (one.cosine ?? 0).toFixed(3)), made("span", label ? (one.values[label] ?? "") : ""));
    button.append(line, made("small", sheet));
    const away = one.away_mm === null || one.away_mm === undefined ? "" : `${one.away_mm.toFixed(1)} mm away`;
    button.append(made("small", away), made("span", String(i + 1), "rank"));
    button.title = `${one.id}: cosine ${(one.cosine ?? 0).toFixed(4)}${away ? `, ${away} on the ${scene.measured}` : ""}`;
    button.onclick = () => {
      for (const other of holder.querySelectorAll("button.now")) other.classList.remove("now");
      button.classList.add("now");
      visit(one);
    };
    item.append(button);
    return item;
  }));
}

/** A bar for every section: how many of its samples are chosen or found; where nothing is, how many it has. */
export function ticks(canvas: HTMLCanvasElement, sheets: Sheet[], now: number, chosen: Ranks | null, found: Place[]): void {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const draws = canvas.getContext("2d") as CanvasRenderingContext2D, style = getComputedStyle(canvas);
  const tone = (name: string): string => style.getPropertyValue(name).trim();
  draws.setTransform(ratio, 0, 0, ratio, 0, 0);
  const counts = sheets.map((sheet, i) => (chosen ? (chosen.perSheet[i] ?? 0) : sheet.rows));
  const top = Math.max(1, ...counts), thumb = 8;
  const room = width - 2 * thumb, apart = sheets.length > 1 ? room / (sheets.length - 1) : 0;
  const bar = Math.max(1.5, Math.min(12, apart * 0.55));
  sheets.forEach((sheet, i) => {
    const x = sheets.length > 1 ? thumb + i * apart : width / 2;
    const tall = counts[i] ? Math.max(2, ((counts[i] as number) / top) * (height - 4)) : 1;
    draws.fillStyle = i === now ? tone("--accent") : chosen ? tone("--ink") : tone("--line");
    draws.fillRect(x - bar / 2, height - tall, bar, tall);
    if (found.some((one) => one.sheet === i)) {
      draws.beginPath();
      draws.arc(x, 3, 2.6, 0, 2 * Math.PI);
      draws.fillStyle = tone("--warm");
      draws.fill();
    }
    if (i && sheet.subject !== sheets[i - 1]?.subject) {
      draws.fillStyle = tone("--soft");
      draws.fillRect(x - apart / 2 - 0.5, 2, 1, height - 2);
    }
  });
}
