// What the server answers, and how it is asked.

export interface Sheet {
  id: string; subject: string; rows: number; width: number; height: number; deepest: number; pixel_um: number;
  scaled: boolean; reach_um: number; side: number; grid: number[][][]; drawn: boolean;
}

export interface Scene {
  name: string; system: string; rows: number; space: string; orientation: string; registered: boolean; measured: string;
  sheets: Sheet[]; frame: [number, number, number, number]; method: string; colourings: { key: string; title: string; group: string }[];
  field_mm: number | null; remarks: string[]; most: number;
}

export interface Colouring {
  title: string; kind: "classes" | "number" | "rgb"; names: string[]; counts: number[]; low: number; high: number;
  about: string; palette: string[]; unknown: number; known: number[];
}

export interface Place {
  rank: number; id: string; sheet: number; x_um: number; y_um: number; mm: number[]; plane: [number, number];
  values: Record<string, string>; cosine?: number; away_mm?: number | null;
}

export interface Within { ranks: Uint32Array; xy: Uint16Array; values: Uint16Array }

let lost: (gone: boolean) => void = () => undefined;

/** Called with true when the server stops answering, with false when it answers again. */
export function onLost(told: (gone: boolean) => void): void {
  lost = told;
}

let waiting = false;

/** Ask until the server answers again, then say so. */
export function watch(): void {
  if (waiting) return;
  waiting = true;
  lost(true);
  const again = async (): Promise<void> => {
    try {
      if ((await fetch("runs")).ok) {
        waiting = false;
        lost(false);
        return;
      }
    } catch {
      // still gone
    }
    setTimeout(() => void again(), 1500);
  };
  setTimeout(() => void again(), 800);
}

async function ask(path: string, init?: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, init);
  } catch (error) {
    if (!(error instanceof DOMException && error.name === "AbortError")) watch();
    throw error;
  }
  if (!answer.ok) throw new Error((await answer.text()).trim() || `status ${answer.status}`);
  return answer;
}

export async function json<T>(path: string, init?: RequestInit): Promise<T> {
  return (await (await ask(path, init)).json()) as T;
}

export async function bytes(path: string, init?: RequestInit): Promise<ArrayBuffer> {
  return (await ask(path, init)).arrayBuffer();
}

export async function within(path: string, init?: RequestInit): Promise<Within> {
  const buffer = await bytes(path, init);
  const n = new Uint32Array(buffer, 0, 1)[0] ?? 0;
  return {
    ranks: new Uint32Array(buffer, 4, n),
    xy: new Uint16Array(buffer, 4 + 4 * n, 2 * n),
    values: new Uint16Array(buffer, 4 + 8 * n, n),
  };
}

/** A set of ranks, a bit each. */
export class Ranks {
  readonly size: number;
  constructor(private readonly bits: Uint8Array, readonly perSheet: Uint32Array) {
    this.size = perSheet.reduce((sum, n) => sum + n, 0);
  }
  has(rank: number): boolean {
    return ((this.bits[rank >> 3] ?? 0) >> (rank & 7) & 1) === 1;
  }
}

export async function lasso(run: number, polygon: number[][], sheets: number): Promise<Ranks> {
  const body = JSON.stringify(polygon);
  const buffer = await bytes(`r/${run}/lasso`, { method: "POST", body, headers: { "content-type": "application/json" } });
  return new Ranks(new Uint8Array(buffer, 4 * sheets), new Uint32Array(buffer, 0, sheets));
}
