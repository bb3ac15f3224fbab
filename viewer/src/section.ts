// One section: its image, the colours over it, marks of places, scale bar and coordinates.

import OpenSeadragon from "openseadragon";
import { type Place, type Ranks, type Sheet, bytes, watch } from "./api";
import { ring } from "./scatter";

const NEAR = 22; // pixels within which a click takes a sample
const MOST_DOTS = 40_000;

interface Samples { xy: Float32Array; ranks: Uint32Array; values: Uint16Array }

export class SectionView {
  onPick: (rank: number) => void = () => undefined;
  onView: () => void = () => undefined;
  onCursor: (text: string) => void = () => undefined;
  onWait: (on: boolean) => void = () => undefined;

  private readonly viewer: OpenSeadragon.Viewer;
  private readonly draws: CanvasRenderingContext2D;
  private run = 0;
  private number = -1;
  private sheet: Sheet | null = null;
  private space = "";
  private key = "";
  private only = 0;
  private opacity = 0.6;
  private invert = false;
  private dark = true;
  private dots = false;
  private samples: Samples | null = null;
  private palette: string[] = [];
  private chosen: Ranks | null = null;
  private place: Place | null = null;
  private found: Place[] = [];
  private frame = 0;
  private wanted: [number, number, number] | null = null;
  private turn = 0;
  private waiting = 0;
  private pointer: OpenSeadragon.Point | null = null;

  constructor(holder: HTMLElement, private readonly marks: HTMLCanvasElement, private readonly scale: HTMLElement) {
    this.draws = marks.getContext("2d") as CanvasRenderingContext2D;
    this.viewer = OpenSeadragon({
      element: holder,
      drawer: "canvas",
      showNavigationControl: false,
      showNavigator: false,
      animationTime: 0.35,
      springStiffness: 9,
      zoomPerScroll: 1.3,
      maxZoomPixelRatio: 8,
      minZoomImageRatio: 0.6,
      visibilityRatio: 0.4,
      imageLoaderLimit: 4, // browsers open six connections to a host: two are left for all else
      timeout: 60_000,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false },
      gestureSettingsPen: { clickToZoom: false },
      subPixelRoundingForTransparency: OpenSeadragon.SUBPIXEL_ROUNDING_OCCURRENCES.ALWAYS,
      keyboardNavEnabled: true,
    } as unknown as OpenSeadragon.Options);
    this.viewer.addHandler("update-viewport", () => this.redraw());
    this.viewer.addHandler("resize", () => this.redraw());
    this.viewer.addHandler("animation-finish", () => this.onView());
    this.viewer.addHandler("tile-load-failed", () => void fetch("runs").catch(() => watch()));
    this.viewer.addHandler("open", () => this.opened());
    this.viewer.addHandler("tile-drawn", () => this.wait(false));
    // a click is what did not move, however long a slow machine took over it
    let pressed = new OpenSeadragon.Point(0, 0);
    this.viewer.addHandler("canvas-press", (event) => { pressed = (event as { position: OpenSeadragon.Point }).position; });
    this.viewer.addHandler("canvas-click", (event) => {
      const at = (event as { position: OpenSeadragon.Point }).position;
      if (at.distanceTo(pressed) < 6) this.click(at);
    });
    new OpenSeadragon.MouseTracker({
      element: holder,
      moveHandler: (event) => {
        this.pointer = (event as unknown as { position: OpenSeadragon.Point }).position;
        this.cursor(this.pointer);
      },
      leaveHandler: () => { this.pointer = null; this.onCursor(""); },
    });
    // its own single-letter keys would shadow ours
    this.viewer.addHandler("canvas-key", (event) => {
      const original = (event as { originalEvent: KeyboardEvent }).originalEvent;
      if (/^[a-z]$/i.test(original.key) || original.key === "0") (event as { preventDefaultAction: boolean }).preventDefaultAction = true;
    });
  }

  async open(run: number, number: number, sheet: Sheet, space: string, view: [number, number, number] | null): Promise<void> {
    const turn = ++this.turn;
    Object.assign(this, { run, number, sheet, space, samples: null });
    this.wanted = view;
    this.onCursor(""); // said anew when the section is there
    this.wait(true);
    const sources: { tileSource: object; opacity?: number }[] = [{ tileSource: this.image() }];
    if (this.key) sources.push({ tileSource: this.colours(), opacity: this.opacity });
    this.viewer.open(sources as never);
    const buffer = await bytes(`r/${run}/section/${number}`);
    if (turn !== this.turn) return;
    this.samples = {
      xy: new Float32Array(buffer, 0, 2 * sheet.rows),
      ranks: new Uint32Array(buffer, 8 * sheet.rows, sheet.rows),
      values: new Uint16Array(0),
    };
    await this.values();
  }

  async setColours(key: string, palette: string[], only: number): Promise<void> {
    const same = key === this.key && only === this.only;
    this.key = key;
    this.palette = palette;
    this.only = only;
    if (this.sheet && !same && this.viewer.world.getItemCount()) this.replace(1, this.colours(), this.opacity);
    await this.values();
  }

  setOpacity(opacity: number): void {
    this.opacity = opacity;
    this.viewer.world.getItemAt(1)?.setOpacity(opacity);
    this.redraw();
  }

  setTone(invert: boolean, dark: boolean): void {
    if (invert === this.invert && dark === this.dark) return;
    this.invert = invert;
    this.dark = dark;
    if (this.sheet && this.viewer.world.getItemCount()) this.replace(0, this.image(), 1);
  }

  setDots(dots: boolean): void { this.dots = dots; this.redraw(); }
  setChosen(chosen: Ranks | null): void { this.chosen = chosen; this.redraw(); }
  setPlace(place: Place | null, found: Place[]): void { this.place = place; this.found = found; this.redraw(); }

  /** Load again what failed. */
  again(): void { this.viewer.world.resetItems(); this.viewer.forceRedraw(); }

  /** Middle (um) and width (um) of what is seen. */
  view(): [number, number, number] | null {
    if (!this.sheet || !this.viewer.world.getItemCount()) return null;
    const bounds = this.viewer.viewport.getBounds(false), wide = this.sheet.width * this.sheet.pixel_um;
    const middle = bounds.getCenter();
    return [middle.x * wide, middle.y * wide, bounds.width * wide];
  }

  /** Bring a place into view, without zooming out. */
  show(x_um: number, y_um: number): void {
    if (!this.sheet) return;
    const wide = this.sheet.width * this.sheet.pixel_um;
    const point = new OpenSeadragon.Point(x_um / wide, y_um / wide);
    const bounds = this.viewer.viewport.getBounds(true);
    const edge = 0.08 * bounds.width;
    const inside = point.x > bounds.x + edge && point.x < bounds.x + bounds.width - edge &&
      point.y > bounds.y + edge && point.y < bounds.y + bounds.height - edge;
    if (!inside) this.viewer.viewport.panTo(point);
  }

  home(): void { this.viewer.viewport.goHome(); }

  /** Say that an image is on its way, where it takes longer than a moment. */
  private wait(on: boolean): void {
    clearTimeout(this.waiting);
    if (on) this.waiting = window.setTimeout(() => this.onWait(true), 350);
    else this.onWait(false);
  }

  private opened(): void {
    // colours that were chosen while the image was still being opened
    if (this.key && this.viewer.world.getItemCount() < 2) this.replace(1, this.colours(), this.opacity);
    if (this.wanted && this.sheet) {
      const [x, y, w] = this.wanted, wide = this.sheet.width * this.sheet.pixel_um;
      const box = this.viewer.viewport.getContainerSize(), high = (w * box.y) / box.x;
      const rect = new OpenSeadragon.Rect((x - w / 2) / wide, (y - high / 2) / wide, w / wide, high / wide);
      this.viewer.viewport.fitBounds(rect, true);
    }
    this.wanted = null;
    this.redraw();
    this.onView();
  }

  private image(): object {
    // what is drawn from places is no image: light on dark in the dark
    const tone = this.invert !== (this.dark && (this.sheet as Sheet).drawn) ? "?invert=1" : "";
    return this.source((level, x, y) => `r/${this.run}/image/${this.number}/${level}/${x}/${y}${tone}`);
  }

  private colours(): object {
    const { key, only } = this;
    const chosen = only ? `?only=${only}` : "";
    return this.source((level, x, y) => `r/${this.run}/over/${this.number}/${key}/${level}/${x}/${y}${chosen}`);
  }

  private source(url: (level: number, x: number, y: number) => string): object {
    const sheet = this.sheet as Sheet;
    return { width: sheet.width, height: sheet.height, tileSize: 256, tileOverlap: 1, minLevel: 0, maxLevel: sheet.deepest, getTileUrl: url };
  }

  private replace(index: number, tileSource: object, opacity: number): void {
    const replaces = this.viewer.world.getItemCount() > index;
    this.viewer.addTiledImage({ tileSource, opacity, index, replace: replaces } as never);
  }

  private async values(): Promise<void> {
    const { samples, key, turn } = this;
    if (!samples || !key) return;
    const values = new Uint16Array(await bytes(`r/${this.run}/section/${this.number}/${key}`));
    if (turn === this.turn && key === this.key) { samples.values = values; this.redraw(); }
  }

  private micrometres(position: OpenSeadragon.Point): [number, number] {
    const point = this.viewer.viewport.pointFromPixel(position, true);
    const wide = (this.sheet as Sheet).width * (this.sheet as Sheet).pixel_um;
    return [point.x * wide, point.y * wide];
  }

  private click(position: OpenSeadragon.Point): void {
    if (!this.samples || !this.sheet) return;
    const [x, y] = this.micrometres(position), { xy, ranks } = this.samples;
    const away = Math.max(this.sheet.reach_um, NEAR * this.umPerPixel());
    let best = away ** 2, at = -1;
    for (let i = 0; i < ranks.length; i++) {
      const d = ((xy[2 * i] as number) - x) ** 2 + ((xy[2 * i + 1] as number) - y) ** 2;
      if (d < best) { best = d; at = i; }
    }
    if (at >= 0) this.onPick(ranks[at] as number);
  }

  private umPerPixel(): number {
    if (!this.sheet) return 1;
    const wide = this.sheet.width * this.sheet.pixel_um;
    return (this.viewer.viewport.getBounds(true).width * wide) / this.viewer.viewport.getContainerSize().x;
  }

  private cursor(position: OpenSeadragon.Point): void {
    const sheet = this.sheet;
    if (!sheet || !this.viewer.world.getItemCount()) return;
    const [x, y] = this.micrometres(position);
    const inside = x >= 0 && y >= 0 && x <= sheet.width * sheet.pixel_um && y <= sheet.height * sheet.pixel_um;
    if (!inside) { this.onCursor(""); return; }
    const mm = placed(sheet, x, y).map((v) => v.toFixed(2).replace("-", "−")).join(", ");
    this.onCursor(`${mm} mm  ·  ${this.space}`);
  }

  private redraw(): void {
    if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.annotate(); });
  }

  private annotate(): void {
    const box = this.viewer.container, ratio = window.devicePixelRatio || 1;
    const width = box.clientWidth, height = box.clientHeight;
    if (this.marks.width !== Math.round(width * ratio) || this.marks.height !== Math.round(height * ratio)) {
      this.marks.width = Math.round(width * ratio); this.marks.height = Math.round(height * ratio);
      this.marks.style.width = `${width}px`; this.marks.style.height = `${height}px`;
    }
    const draws = this.draws;
    draws.setTransform(ratio, 0, 0, ratio, 0, 0);
    draws.clearRect(0, 0, width, height);
    if (!this.sheet || !this.viewer.world.getItemCount()) return;
    const um = this.umPerPixel(), origin = this.viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const at = (x: number, y: number): [number, number] => [origin.x + x / um, origin.y + y / um];
    this.spots(at, width, height, um);
    const style = getComputedStyle(this.marks), accent = style.getPropertyValue("--accent").trim();
    draws.font = "600 11px system-ui, sans-serif";
    draws.textAlign = "center";
    draws.textBaseline = "middle";
    this.found.forEach((one, i) => {
      if (one.sheet !== this.number) return;
      const [x, y] = at(one.x_um, one.y_um);
      draws.beginPath();
      draws.arc(x, y, 10, 0, 2 * Math.PI);
      draws.fillStyle = "rgba(8,11,14,.82)";
      draws.fill();
      draws.lineWidth = 2;
      draws.strokeStyle = accent;
      draws.stroke();
      draws.fillStyle = "#fff";
      draws.fillText(String(i + 1), x, y + 0.5);
    });
    if (this.place?.sheet === this.number) {
      const [x, y] = at(this.place.x_um, this.place.y_um);
      ring(draws, x, y, 11, "#fff");
      ring(draws, x, y, 2, "#fff");
    }
    this.bar(um);
    // the section moves under a mouse that rests: by keys, while it glides, when another is opened
    if (this.pointer) this.cursor(this.pointer);
  }

  private spots(at: (x: number, y: number) => [number, number], width: number, height: number, um: number): void {
    const samples = this.samples;
    if (!samples || !(this.dots || this.chosen)) return;
    const { xy, ranks, values } = samples, draws = this.draws, sheet = this.sheet as Sheet;
    const size = Math.max(1.6, Math.min(7, (0.42 * sheet.reach_um) / um));
    let drawn = 0;
    for (let i = 0; i < ranks.length && drawn < MOST_DOTS; i++) {
      const mine = this.chosen?.has(ranks[i] as number) ?? false;
      const value = values[i] ?? 0;
      if (!mine && (!this.dots || (this.only > 0 && value !== this.only))) continue;
      const [x, y] = at(xy[2 * i] as number, xy[2 * i + 1] as number);
      if (x < -8 || y < -8 || x > width + 8 || y > height + 8) continue;
      drawn++;
      const radius = mine ? Math.max(size, 2.4) : size;
      draws.beginPath();
      draws.arc(x, y, radius + (mine ? 1.6 : 0.8), 0, 2 * Math.PI);
      draws.fillStyle = mine ? "#fff" : "rgba(0,0,0,.55)";
      draws.fill();
      draws.beginPath();
      draws.arc(x, y, radius, 0, 2 * Math.PI);
      draws.fillStyle = this.palette[value] ?? "#888";
      draws.fill();
    }
    this.marks.dataset["chosen"] = String(this.chosen ? countHere(ranks, this.chosen) : 0);
  }

  private bar(um: number): void {
    const sheet = this.sheet as Sheet;
    this.scale.hidden = false;
    const line = this.scale.firstElementChild as HTMLElement, words = this.scale.lastElementChild as HTMLElement;
    if (!sheet.scaled) {
      line.style.width = "0";
      words.textContent = "scale not known";
      return;
    }
    const long = nice(110 * um);
    line.style.width = `${long / um}px`;
    words.textContent = long >= 1000 ? `${(long / 1000).toLocaleString("en")} mm` : `${long.toLocaleString("en")} µm`;
  }
}

function countHere(ranks: Uint32Array, chosen: Ranks): number {
  let n = 0;
  for (const rank of ranks) if (chosen.has(rank)) n++;
  return n;
}

/** The longest of 1, 2, 5 times a power of ten that is not longer. */
function nice(most: number): number {
  const power = 10 ** Math.floor(Math.log10(most));
  return power * (most / power >= 5 ? 5 : most / power >= 2 ? 2 : 1);
}

/** Place (mm) of a point of a section, by its grid of places. */
export function placed(sheet: Sheet, x_um: number, y_um: number): number[] {
  const last = sheet.side - 1;
  const u = (x_um / (sheet.width * sheet.pixel_um)) * last, v = (y_um / (sheet.height * sheet.pixel_um)) * last;
  const column = Math.min(Math.max(Math.floor(u), 0), last - 1), row = Math.min(Math.max(Math.floor(v), 0), last - 1);
  const a = u - column, b = v - row;
  const corner = (r: number, c: number): number[] => (sheet.grid[r] as number[][])[c] as number[];
  return [0, 1, 2].map((axis) =>
    (1 - b) * ((1 - a) * (corner(row, column)[axis] as number) + a * (corner(row, column + 1)[axis] as number)) +
    b * ((1 - a) * (corner(row + 1, column)[axis] as number) + a * (corner(row + 1, column + 1)[axis] as number)));
}
