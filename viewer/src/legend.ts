// What the colours mean; a class can be shown alone.

import type { Colouring } from "./api";

export class Legend {
  onOnly: (value: number) => void = () => undefined;

  constructor(private readonly holder: HTMLElement) {}

  show(colouring: Colouring, only: number): void {
    const title = document.createElement("h2");
    title.textContent = colouring.title;
    const parts: HTMLElement[] = [title];
    if (colouring.kind === "classes") parts.push(this.classes(colouring, only));
    if (colouring.kind === "number") parts.push(...ramp(colouring));
    if (colouring.about) {
      const about = document.createElement("p");
      about.textContent = colouring.about;
      parts.push(about);
    }
    if (colouring.unknown) {
      const line = document.createElement("p"), swatch = document.createElement("i");
      line.className = "unknown";
      line.append(swatch, `${colouring.unknown.toLocaleString("en")} not known: grey in the plane, bare on the section`);
      parts.push(line);
    }
    this.holder.replaceChildren(...parts);
  }

  /** Nothing on a section has a colour: the words that say so, and the way to a section where something has. */
  bare(words: string, to: string, go: () => void): void {
    this.holder.querySelector(".bare")?.remove();
    if (!words) return;
    const line = document.createElement("p");
    line.className = "bare";
    line.append(`${words} `);
    if (to) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `Open ${to}`;
      button.onclick = go;
      line.append(button);
    }
    this.holder.firstElementChild?.after(line);
  }

  private classes(colouring: Colouring, only: number): HTMLElement {
    const list = document.createElement("ul");
    colouring.names.forEach((name, i) => {
      const value = i + 1;
      if (!colouring.counts[i]) return; // a name that a prediction has and its truth has not, or the reverse
      const item = document.createElement("li"), button = document.createElement("button");
      const swatch = document.createElement("span"), words = document.createElement("span"), n = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = colouring.palette[value] ?? "#888";
      words.className = "name";
      words.textContent = name;
      words.title = name;
      n.className = "n";
      n.textContent = (colouring.counts[i] ?? 0).toLocaleString("en");
      button.type = "button";
      button.setAttribute("aria-pressed", String(only === value));
      button.append(swatch, words, n);
      button.onclick = () => this.onOnly(value);
      if (only && only !== value) item.className = "other";
      item.append(button);
      list.append(item);
    });
    return list;
  }
}

function ramp(colouring: Colouring): HTMLElement[] {
  const bar = document.createElement("canvas");
  bar.width = 256;
  bar.height = 1;
  bar.setAttribute("aria-hidden", "true");
  const draws = bar.getContext("2d") as CanvasRenderingContext2D;
  const colours = colouring.palette.slice(1);
  for (let i = 0; i < 256; i++) {
    draws.fillStyle = colours[Math.floor((i * colours.length) / 256)] ?? "#888";
    draws.fillRect(i, 0, 1, 1);
  }
  const ends = document.createElement("div");
  ends.className = "ends";
  for (const value of [colouring.low, (colouring.low + colouring.high) / 2, colouring.high]) {
    const end = document.createElement("span");
    end.textContent = String(Number(value.toPrecision(3)));
    ends.append(end);
  }
  return [bar, ends];
}
