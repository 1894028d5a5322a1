// What else could have stood where a token stands: a small list beside it, to pick from.

import { percent } from "./sample.js";

const CLOSE_MS = 250; // the way of a pointer from the token to the list

export class Alternatives {
  /** `onPick(mark, label)` is called with the token's mark and the label that stands in its place. */
  constructor(onPick) {
    this.box = document.getElementById("alternatives");
    this.onPick = onPick;
    this.span = null;
    this.timer = 0;
    this.returnTo = null;
    this.box.addEventListener("pointerenter", () => clearTimeout(this.timer));
    this.box.addEventListener("pointerleave", () => this.closeSoon());
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    window.addEventListener("scroll", () => this.follow(), { passive: true, capture: true });
    document.addEventListener("pointerdown", (event) => {
      if (!this.box.contains(event.target)) this.close();
    });
  }

  get isOpen() {
    return !this.box.hidden;
  }

  /** The pointer is over a token, or over none. */
  hover(span) {
    if (span === this.span) return clearTimeout(this.timer);
    if (span) return this.open(span);
    return this.closeSoon();
  }

  open(span) {
    clearTimeout(this.timer);
    if (this.span) this.span.classList.remove("chosen");
    this.span = span;
    span.classList.add("chosen");
    const { token } = span.mark;
    const title = document.createElement("p");
    title.append(named(token.label), ` ${percent(token.logprob)}`);
    const list = document.createElement("ul");
    list.append(...token.top.map(([label, logprob]) => this.item(label, logprob, token.label)));
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.textContent = "Pick one, and the text goes on from there.";
    this.box.replaceChildren(title, list, hint);
    this.box.hidden = false;
    this.place(span);
  }

  /** Open, and take the keyboard there. Closing gives it back. */
  openWithFocus(span) {
    this.returnTo = document.activeElement;
    this.open(span);
    this.box.querySelector("button:not(:disabled)")?.focus();
  }

  closeSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.close(), CLOSE_MS);
  }

  close() {
    clearTimeout(this.timer);
    if (this.span) this.span.classList.remove("chosen");
    this.span = null;
    this.box.hidden = true;
    this.returnTo?.focus({ preventScroll: true });
    this.returnTo = null;
  }

  item(label, logprob, drawn) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.style.setProperty("--share", Math.exp(logprob ?? -99).toFixed(4));
    const share = document.createElement("span");
    share.textContent = percent(logprob);
    button.append(named(label), share);
    if (label === drawn) button.setAttribute("aria-current", "true");
    if (/^(bytes|token_id):/.test(label)) {
      button.disabled = true;
      button.title = "Part of a character, which cannot stand alone";
    }
    const { mark } = this.span;
    button.addEventListener("click", () => {
      this.returnTo = null;
      this.close();
      this.onPick(mark, label);
    });
    item.append(button);
    return item;
  }

  onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") {
      event.stopPropagation();
      this.close();
    } else if (step) {
      event.preventDefault();
      const buttons = [...this.box.querySelectorAll("button:not(:disabled)")];
      const next = buttons.indexOf(document.activeElement) + step;
      buttons[(next + buttons.length) % buttons.length].focus();
    }
  }

  /** Stay beside the token, wherever it is scrolled to; a phone scrolls for its keyboard. */
  follow() {
    if (this.span?.isConnected) this.place(this.span);
  }

  /** Below the token, or above where there is no room. */
  place(span) {
    const rects = span.getClientRects();
    const anchor = rects[rects.length - 1];
    const { offsetWidth: width, offsetHeight: height } = this.box;
    const left = Math.max(8, Math.min(anchor.left, window.innerWidth - width - 8));
    const isBelow = anchor.bottom + height + 12 < window.innerHeight;
    this.box.style.left = `${left}px`;
    this.box.style.top = `${isBelow ? anchor.bottom + 4 : Math.max(8, anchor.top - height - 4)}px`;
  }
}

/** A token's text with its spaces and line ends to be seen. */
function named(label) {
  const code = document.createElement("code");
  code.textContent = label.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥");
  return code;
}
