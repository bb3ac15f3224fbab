// Points drawn by the graphics card (WebGL2), by two fixed programs: no library, no code made from text.

import type { Ranks } from "./api";
import { FAINT, GREY, type Layer, type Points, quarter, side, type Style, UNKNOWN } from "./pixels";

// a point is a square of whole pixels, as the processor draws it; what must not be seen goes beyond the clip space
const VERTEX = `#version 300 es
in vec2 place;
in uint value;
in uint held;
uniform vec4 bounds;
uniform vec2 size;
uniform float side;
uniform uint only;
uniform bool among, marked, front;
uniform float strength;
uniform highp sampler2D palette;
flat out vec4 colour;
void main() {
  bool mine = (!among || held == 1u) && (only == 0u || value == only);
  vec2 at = (place - bounds.xy) / (bounds.zw - bounds.xy) * size;
  bool shown = (!marked || mine == front) && all(greaterThanEqual(at, vec2(0))) && all(lessThan(at, size));
  vec2 middle = floor(at - side / 2.0 + 0.5) + side / 2.0;
  gl_Position = shown ? vec4(middle.x / size.x * 2.0 - 1.0, 1.0 - middle.y / size.y * 2.0, 0, 1) : vec4(2, 2, 2, 1);
  gl_PointSize = side;
  float opacity = front ? (value == 0u ? strength * ${UNKNOWN} : strength) : ${FAINT};
  colour = vec4(texelFetch(palette, ivec2(int(value & 255u), int(value >> 8u)), 0).rgb, opacity);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
uniform float side, radius;
uniform bool disc;
flat in vec4 colour;
out vec4 seen;
void main() {
  float away = distance(gl_PointCoord * side, vec2(side / 2.0));
  seen = vec4(colour.rgb, colour.a * (disc ? clamp(radius + 0.5 - away, 0.0, 1.0) : 1.0));
}`;

const UNIFORMS = [
  "bounds", "size", "side", "only", "among", "marked", "front", "strength", "palette", "radius", "disc",
] as const;

/** Buffers of a layer, and what was put into them. */
interface Held {
  array: WebGLVertexArrayObject; xy: WebGLBuffer; values: WebGLBuffer; held: WebGLBuffer;
  from: { xy?: Uint16Array; values?: Uint16Array; chosen?: Ranks | null; ranks?: Uint32Array | null };
}

export class Graphics implements Points {
  readonly name = "graphics";
  private readonly program: WebGLProgram;
  private readonly at: Record<(typeof UNIFORMS)[number], WebGLUniformLocation | null>;
  private readonly layers: Held[] = [];
  private palette: Uint32Array | null = null;

  /** WebGL2 where the browser has it; `lost` is called when the card takes it away. */
  static begin(lost: () => void): Graphics | null {
    const canvas = document.createElement("canvas");
    const asked = { alpha: false, antialias: false, depth: false, powerPreference: "high-performance" } as const;
    try {
      const quick = canvas.getContext("webgl2", { ...asked, failIfMajorPerformanceCaveat: true }) as WebGL2RenderingContext | null;
      const gl = quick ?? (canvas.getContext("webgl2", asked) as WebGL2RenderingContext | null);
      if (!gl) return null;
      canvas.addEventListener("webglcontextlost", lost, { once: true });
      return new Graphics(gl, quick !== null);
    } catch {
      return null; // a driver that cannot compile it: the processor draws
    }
  }

  private constructor(private readonly gl: WebGL2RenderingContext, readonly fast: boolean) {
    this.program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]] as const) {
      const shader = gl.createShader(kind) as WebGLShader;
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(this.program, shader);
    }
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(this.program) ?? "");
    gl.useProgram(this.program);
    const found = UNIFORMS.map((name) => [name, gl.getUniformLocation(this.program, name)]);
    this.at = Object.fromEntries(found) as typeof this.at;
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
  }

  draw(onto: CanvasRenderingContext2D, layers: Layer[], style: Style): void {
    const { gl, at } = this;
    const { width, height } = onto.canvas;
    if (gl.canvas.width !== width || gl.canvas.height !== height) { gl.canvas.width = width; gl.canvas.height = height; }
    gl.viewport(0, 0, width, height);
    gl.clearColor((style.ground & 255) / 255, ((style.ground >> 8) & 255) / 255, ((style.ground >> 16) & 255) / 255, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    this.colours(style.palette);
    gl.uniform4fv(at.bounds, style.bounds);
    gl.uniform2f(at.size, width, height);
    gl.uniform1f(at.side, side(style));
    gl.uniform1f(at.radius, quarter(style.radius));
    gl.uniform1i(at.disc, Number(style.round));
    gl.uniform1ui(at.only, style.only);
    gl.uniform1i(at.among, Number(style.chosen !== null));
    gl.uniform1f(at.strength, style.strength);
    const marked = style.chosen !== null || style.only > 0;
    gl.uniform1i(at.marked, Number(marked));
    const held = layers.map((layer, i) => this.put(i, layer, style.chosen));
    for (const front of marked ? [false, true] : [true]) {
      gl.uniform1i(at.front, Number(front));
      layers.forEach(({ count }, i) => {
        gl.bindVertexArray((held[i] as Held).array);
        if (count) gl.drawArrays(gl.POINTS, 0, count);
      });
    }
    onto.drawImage(gl.canvas as HTMLCanvasElement, 0, 0);
  }

  /** The palette as a texture of 256 colours a row. */
  private colours(palette: Uint32Array): void {
    if (this.palette === palette) return;
    const { gl } = this;
    const colours = new Uint32Array(256 * 256).fill(GREY); // every value that 16 bits can say has a colour
    colours.set(palette.subarray(0, colours.length));
    const bytes = new Uint8Array(colours.buffer);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 256, 0, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    this.palette = palette;
  }

  /** A layer in the card's memory; only what has changed is sent there. */
  private put(number: number, layer: Layer, chosen: Ranks | null): Held {
    const { gl } = this;
    const held = (this.layers[number] ??= this.made());
    const { xy, values, ranks } = layer;
    const n = Math.min(xy.length / 2, values.length);
    const send = (buffer: WebGLBuffer, data: Uint16Array | Uint8Array): void => {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    };
    const others = held.from.xy !== xy;
    if (others) send(held.xy, xy);
    if (held.from.values !== values) send(held.values, values);
    if (others || held.from.chosen !== chosen || held.from.ranks !== ranks || held.from.values?.length !== values.length) {
      const mine = new Uint8Array(n);
      if (chosen) for (let i = 0; i < n; i++) mine[i] = Number(chosen.has(ranks ? (ranks[i] as number) : i));
      send(held.held, mine);
    }
    held.from = { xy, values, chosen, ranks };
    return held;
  }

  private made(): Held {
    const { gl } = this;
    const held: Held = {
      array: gl.createVertexArray(), xy: gl.createBuffer(), values: gl.createBuffer(), held: gl.createBuffer(), from: {},
    };
    gl.bindVertexArray(held.array);
    const bind = (name: string, buffer: WebGLBuffer): number => {
      const at = gl.getAttribLocation(this.program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(at);
      return at;
    };
    gl.vertexAttribPointer(bind("place", held.xy), 2, gl.UNSIGNED_SHORT, false, 0, 0);
    gl.vertexAttribIPointer(bind("value", held.values), 1, gl.UNSIGNED_SHORT, 0, 0);
    gl.vertexAttribIPointer(bind("held", held.held), 1, gl.UNSIGNED_BYTE, 0, 0);
    return held;
  }
}
