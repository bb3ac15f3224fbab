// Points drawn into pixels by the processor: for browsers without WebGL2, and what the graphics card is tested against.

import type { Ranks } from "./api";

/** Points that are drawn in this order; `ranks` where these are not their numbers. */
export interface Layer { xy: Uint16Array; values: Uint16Array; ranks: Uint32Array | null; count: number }

export interface Style {
  bounds: [number, number, number, number]; // of what is seen, in steps of the plane
  ground: number; // little-endian RGBA, as are colours
  radius: number; // in device pixels
  round: boolean; // discs; squares are faster, and the same where points are small
  strength: number; // opacity of a point
  palette: Uint32Array; // a colour for each value
  only: number; // the one value that is not faint; 0 for all
  chosen: Ranks | null; // the points that are not faint; null for all
}

export interface Points {
  readonly name: string;
  readonly fast: boolean; // all points can be drawn while the plane moves
  draw(onto: CanvasRenderingContext2D, layers: Layer[], style: Style): void;
}

export const FAINT = 0.1; // opacity of what is not chosen
export const UNKNOWN = 0.4; // of a point without a value, as a share of the others'
export const GREY = 0xff888888;

/** Pixels along a side of a point. */
export function side(style: Style): number {
  return style.round ? 2 * Math.ceil(quarter(style.radius) + 0.5) + 1 : Math.max(1, Math.round(style.radius * 2));
}

/** A radius in quarters of a pixel: few stamps serve all. */
export function quarter(radius: number): number {
  return Math.round(radius * 4) / 4;
}

export class Pixels implements Points {
  readonly name = "processor";
  readonly fast = false;
  private image: ImageData | null = null;

  draw(onto: CanvasRenderingContext2D, layers: Layer[], style: Style): void {
    const { width, height } = onto.canvas;
    if (this.image?.width !== width || this.image.height !== height) this.image = onto.createImageData(width, height);
    const data = new Uint32Array(this.image.data.buffer);
    data.fill(style.ground);
    const [x0, y0, x1, y1] = style.bounds;
    const kx = width / (x1 - x0), ky = height / (y1 - y0);
    const { chosen, only, palette, strength } = style;
    const paint = style.round ? disc(quarter(style.radius)) : square(side(style));
    const marked = chosen !== null || only > 0;
    for (const front of marked ? [false, true] : [true]) {
      for (const { xy, values, ranks, count } of layers) {
        for (let i = 0; i < count; i++) {
          const x = ((xy[2 * i] as number) - x0) * kx, y = ((xy[2 * i + 1] as number) - y0) * ky;
          if (x < 0 || y < 0 || x >= width || y >= height) continue;
          const value = values[i] as number;
          if (marked) {
            const mine = (!chosen || chosen.has(ranks ? (ranks[i] as number) : i)) && (!only || value === only);
            if (mine !== front) continue;
          }
          const colour = palette[value] ?? GREY;
          stamp(data, width, height, x, y, paint, colour, front ? (value ? strength : strength * UNKNOWN) : FAINT);
        }
      }
    }
    onto.putImageData(this.image, 0, 0);
  }
}

interface Stamp { side: number; cover: Float32Array }

const stamps = new Map<number, Stamp>();

function disc(r: number): Stamp {
  const known = stamps.get(r);
  if (known) return known;
  const side = 2 * Math.ceil(r + 0.5) + 1, middle = (side - 1) / 2;
  const cover = new Float32Array(side * side);
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++)
      cover[y * side + x] = Math.max(0, Math.min(1, r + 0.5 - Math.hypot(x - middle, y - middle)));
  const made = { side, cover };
  stamps.set(r, made);
  return made;
}

function square(side: number): Stamp {
  return { side, cover: new Float32Array(side * side).fill(1) };
}

/** Blend a stamp into pixels (little-endian RGBA). */
function stamp(
  data: Uint32Array, width: number, height: number, x: number, y: number, paint: Stamp, colour: number, strength: number,
): void {
  const left = Math.round(x - paint.side / 2), top = Math.round(y - paint.side / 2);
  const r = colour & 255, g = (colour >> 8) & 255, b = (colour >> 16) & 255;
  for (let dy = 0; dy < paint.side; dy++) {
    const row = top + dy;
    if (row < 0 || row >= height) continue;
    for (let dx = 0; dx < paint.side; dx++) {
      const column = left + dx;
      if (column < 0 || column >= width) continue;
      const a = (paint.cover[dy * paint.side + dx] as number) * strength;
      if (a <= 0) continue;
      const at = row * width + column, under = data[at] as number;
      const ur = under & 255, ug = (under >> 8) & 255, ub = (under >> 16) & 255;
      // rounded, as on the card: cut off, many faint points would stop short of their colour
      const mix = (from: number, to: number): number => from + (to - from) * a + 0.5;
      data[at] = (0xff000000 | (mix(ub, b) << 16) | (mix(ug, g) << 8) | mix(ur, r)) >>> 0;
    }
  }
}
