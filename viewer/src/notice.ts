// A word to the reader that is no failure: it lies over the section, and goes by itself.

export class Notice {
  private ends = 0;

  constructor(private readonly holder: HTMLElement) {
    (holder.lastElementChild as HTMLButtonElement).onclick = () => this.hide();
  }

  get shown(): boolean { return !this.holder.hidden; }

  show(text: string, seconds: number): void {
    clearTimeout(this.ends);
    (this.holder.firstElementChild as HTMLElement).textContent = text;
    this.holder.hidden = false;
    this.ends = window.setTimeout(() => this.hide(), 1000 * seconds);
  }

  hide(): void { clearTimeout(this.ends); this.holder.hidden = true; }
}
