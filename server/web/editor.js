// The text: a textarea for typing, undo and paste, over a copy of it that carries the colours.

import { tokenSpan } from "./sample.js";

export class Editor {
  constructor(onChange) {
    this.paper = document.getElementById("paper");
    this.area = document.getElementById("text");
    this.head = document.getElementById("head");
    this.tail = document.getElementById("tail");
    this.markedText = ""; // what the marks were made for; undo brings it back, and them
    this.allMarks = [];
    this.growth = null; // the sample that is being written
    this.isScheduled = false;
    this.area.addEventListener("input", () => {
      this.render();
      onChange();
    });
    this.render();
  }

  get text() {
    return this.area.value;
  }

  /** Marks of tokens before which nothing was changed: the others were drawn after another text. */
  get marks() {
    const text = this.text;
    let same = 0;
    while (same < text.length && text[same] === this.markedText[same]) same += 1;
    return this.allMarks.filter((mark) => mark.end <= same);
  }

  /** The ids of the whole text, where it ends with a whole token that is known; else null. */
  exactIds() {
    const last = this.marks.at(-1);
    if (!last || last.end !== this.text.length) return null;
    const isWhole = last.text === last.token.label || last.token.label.startsWith("bytes:");
    if (!isWhole) return null; // a stop string began within it
    return last.sample.idsBefore(last.position + 1);
  }

  /** Replace what stands from `start` on, in one step that undo takes back. */
  replaceFrom(start, text) {
    const before = document.activeElement;
    const kept = this.marks.filter((mark) => mark.end <= start);
    this.area.readOnly = false;
    this.area.focus({ preventScroll: true });
    this.area.setSelectionRange(start, this.area.value.length);
    // The only call that a textarea's own undo knows of.
    const done = text
      ? document.execCommand("insertText", false, text)
      : start === this.area.value.length || document.execCommand("delete");
    if (!done) this.area.setRangeText(text, start, this.area.value.length, "end");
    if (before && before !== this.area && before !== document.body) before.focus();
    this.markedText = this.text;
    this.allMarks = kept;
    this.render();
  }

  /** Show a sample growing behind the text, which cannot be changed meanwhile. */
  grow(sample) {
    this.growth = sample;
    this.area.readOnly = true;
    if (this.isScheduled) return;
    this.isScheduled = true;
    requestAnimationFrame(() => {
      this.isScheduled = false;
      if (!this.growth) return;
      const isAtEnd = this.paper.scrollTop + this.paper.clientHeight > this.paper.scrollHeight - 60;
      this.tail.replaceChildren(...this.growth.marks(this.text.length).map(tokenSpan));
      if (isAtEnd) this.paper.scrollTop = this.paper.scrollHeight;
    });
  }

  /** The sample has ended, and is text like any other. */
  settle() {
    this.area.readOnly = false;
    const sample = this.growth;
    this.growth = null;
    this.tail.replaceChildren();
    if (sample) this.append(sample);
  }

  /** Put a sample, with its marks, in the place of all from `start` on. */
  append(sample, start = this.text.length) {
    this.replaceFrom(start, sample.text);
    this.allMarks.push(...sample.marks(start));
    this.render();
  }

  /** Where the sample of a mark begins in the text; the text's end, where it is not in there. */
  startOf(mark) {
    if (!this.marks.some((one) => one.token === mark.token)) return this.text.length;
    const [alone] = mark.sample.marks(0).filter((one) => one.position === mark.position);
    return mark.start - alone.start;
  }

  render() {
    const text = this.text;
    const parts = [];
    let place = 0;
    for (const mark of this.marks) {
      if (mark.start > place) parts.push(text.slice(place, mark.start));
      parts.push(tokenSpan(mark));
      place = mark.end;
    }
    parts.push(text.slice(place));
    this.head.replaceChildren(...parts);
  }

  /** The span of the token at a point of the screen, or of the one before the caret. */
  spanAt(x, y) {
    return document.elementsFromPoint(x, y).find((one) => one.classList.contains("token")) || null;
  }

  spanAtCaret() {
    const caret = this.area.selectionStart;
    const spans = [...this.head.querySelectorAll(".token")];
    return spans.find((span) => span.mark.start < caret && caret <= span.mark.end)
      || spans.find((span) => span.mark.start === caret) || null;
  }
}
