// Several samples side by side, each with its colours, and a way to go on with one of them.

import { tokenSpan } from "./sample.js";

export class Samples {
  constructor(alternatives, onKeep) {
    this.box = document.getElementById("samples");
    this.onKeep = onKeep;
    this.texts = [];
    this.grown = new Set(); // what the next frame shows
    this.box.addEventListener("pointerover", (event) => {
      alternatives.hover(event.target.closest(".token"));
    });
    this.box.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") alternatives.hover(null);
    });
  }

  clear() {
    this.grown.clear();
    this.texts = [];
    this.box.replaceChildren();
  }

  /** A card for each of `samples`. */
  begin(samples) {
    this.clear();
    for (const sample of samples) this.box.append(this.card(sample));
  }

  card(sample) {
    const card = document.createElement("article");
    card.setAttribute("role", "listitem");
    const text = document.createElement("p");
    text.className = "sample-text";
    const foot = document.createElement("footer");
    const ended = document.createElement("span");
    const keep = document.createElement("button");
    keep.type = "button";
    keep.textContent = "Keep";
    keep.disabled = true;
    keep.setAttribute("aria-label", `Keep sample ${sample.index + 1}`);
    keep.addEventListener("click", () => this.onKeep(sample));
    foot.append(ended, keep);
    card.append(text, foot);
    this.texts[sample.index] = { text, ended, keep };
    return card;
  }

  /** `sample` has grown; it is shown with the next frame, however many events come before it. */
  grow(sample) {
    if (this.grown.size === 0) requestAnimationFrame(() => this.showGrown());
    this.grown.add(sample);
  }

  showGrown() {
    for (const sample of this.grown) this.show(sample);
    this.grown.clear();
  }

  show(sample) {
    const { text, ended } = this.texts[sample.index];
    text.replaceChildren(...sample.marks(0).map(tokenSpan));
    ended.textContent = `${sample.index + 1} · ${sample.tokens.length} tokens`;
  }

  settle() {
    this.showGrown();
    for (const { keep } of this.texts) keep.disabled = false;
  }
}
