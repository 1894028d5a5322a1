// What went wrong, in words, and what can be done: wait, try again, or give a key.

import { keepKey, readKey } from "./api.js";

export class Notice {
  constructor() {
    this.box = document.getElementById("notice");
    this.text = document.getElementById("notice-text");
    this.action = document.getElementById("notice-action");
    this.timer = 0;
    this.retry = null;
    this.action.addEventListener("click", () => {
      this.clear();
      this.retry?.();
    });
    document.getElementById("notice-close").addEventListener("click", () => this.clear());
  }

  clear() {
    clearInterval(this.timer);
    this.box.hidden = true;
  }

  /** `error` is a Refusal; `retry` what would be done again. */
  show(error, retry = null) {
    clearInterval(this.timer);
    this.text.textContent = error.message;
    this.box.hidden = false;
    this.retry = retry;
    const canRetry = retry !== null && [0, 429, 503, 504].includes(error.status);
    this.action.hidden = !canRetry;
    if (canRetry) this.countDown(Math.ceil(error.waitS || 0));
  }

  countDown(leftS) {
    const say = () => {
      this.action.disabled = leftS > 0;
      this.action.textContent = leftS > 0 ? `Try again in ${leftS} s` : "Try again";
      if (leftS <= 0) clearInterval(this.timer);
      leftS -= 1;
    };
    say();
    this.timer = setInterval(say, 1000);
  }
}

export class KeyDialog {
  /** `onKey` is called when there is another key, or none any more. */
  constructor(onKey) {
    this.dialog = document.getElementById("key-dialog");
    this.input = document.getElementById("key");
    this.why = document.getElementById("key-why");
    this.button = document.getElementById("key-button");
    this.button.addEventListener("click", () => this.ask());
    this.dialog.addEventListener("close", () => {
      const choice = this.dialog.returnValue;
      if (choice === "save") keepKey(this.input.value.trim());
      if (choice === "forget") keepKey("");
      this.input.value = "";
      this.mark();
      if (choice) onKey();
    });
    this.mark();
  }

  mark() {
    this.button.textContent = readKey() ? "Key: set" : "Key";
  }

  ask(why = "Sent with every request of this page, and kept in this tab only.") {
    this.why.textContent = why;
    this.dialog.returnValue = "";
    if (!this.dialog.open) this.dialog.showModal();
  }
}
