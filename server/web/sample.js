// One choice of an answer while it grows: its tokens, and which part of the text each of them is.

export class Sample {
  constructor(index) {
    this.index = index;
    this.promptIds = null;
    this.ids = [];
    this.tokens = []; // {label, logprob, top: [[label, logprob]], offset in characters}
    this.chars = []; // code points, as the server counts them
    this.seed = null;
    this.finishReason = null;
  }

  get text() {
    return this.chars.join("");
  }

  /** Take what one event says of this choice. */
  absorb(choice) {
    if (choice.prompt_token_ids) this.promptIds = choice.prompt_token_ids;
    for (const char of choice.text) this.chars.push(char);
    this.ids.push(...(choice.token_ids || []));
    this.seed = choice.seed;
    this.finishReason = choice.finish_reason || this.finishReason;
    const told = choice.logprobs || { tokens: [] };
    told.tokens.forEach((label, i) => {
      const top = Object.entries(told.top_logprobs[i] || {}).sort((a, b) => b[1] - a[1]);
      const logprob = told.token_logprobs[i];
      this.tokens.push({ label, logprob, top, offset: told.text_offset[i] });
    });
  }

  /**
   * Marks of the tokens that show text, in code units from `base` on. A token that is only the
   * beginning of a character shows none; one behind a stop string neither.
   */
  marks(base) {
    const found = [];
    let place = base;
    this.tokens.forEach((token, position) => {
      const next = this.tokens[position + 1];
      const text = this.chars.slice(token.offset, next ? next.offset : undefined).join("");
      if (!text) return;
      const mark = { start: place, end: place + text.length, text, token, position, sample: this };
      found.push(mark);
      place = mark.end;
    });
    return found;
  }

  /** Make this `sample` up to `position`, and then another token, which was its alternative. */
  branched(sample, position, id, label) {
    const { logprob, top, offset } = sample.tokens[position];
    const found = top.find(([other]) => other === label);
    this.promptIds = sample.promptIds;
    this.ids = [...sample.ids.slice(0, position), id];
    this.tokens = [...sample.tokens.slice(0, position), { label, logprob: found ? found[1] : logprob, top, offset }];
    this.chars = [...sample.chars.slice(0, offset), ...label];
    this.seed = sample.seed;
    return this;
  }

  /** The ids before a token of this choice: what an alternative to it follows. */
  idsBefore(position) {
    return [...this.promptIds, ...this.ids.slice(0, position)];
  }
}

/** A token as a coloured span; how surprising it is, from 0 to 1, is a property of its style. */
export function tokenSpan(mark) {
  const span = document.createElement("span");
  span.className = "token";
  span.textContent = mark.text;
  span.mark = mark;
  const bits = mark.token.logprob === null ? 10 : -mark.token.logprob / Math.LN2;
  span.style.setProperty("--surprise", Math.min(1, bits / 9).toFixed(3));
  return span;
}

/** A probability for people. */
export function percent(logprob) {
  const share = logprob === null ? 0 : Math.exp(logprob) * 100;
  if (share > 0 && share < 0.1) return "< 0.1 %";
  return `${share.toFixed(share < 10 ? 1 : 0)} %`;
}
