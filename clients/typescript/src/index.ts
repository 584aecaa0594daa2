/** The stub of FaceID Metering. What each method promises stands in the contract, proto/faceid/metering/v1. */

import type { Money } from "./gen/google/type/money.js";

export * from "./gen/faceid/metering/v1/account_service.js";
export { ErrorReason } from "./gen/faceid/metering/v1/error_reason.js";
export * from "./gen/faceid/metering/v1/metering_service.js";
export * from "./gen/faceid/metering/v1/resources.js";
export type { Money };

/** An amount as a decimal without its currency, such as `12.5`; exact, which a number is not. */
export function amountOf(money: Money): string {
  const negative = money.units < 0n || money.nanos < 0;
  const units = money.units < 0n ? -money.units : money.units;
  const decimals = Math.abs(money.nanos).toString().padStart(9, "0").replace(/0+$/, "");
  return `${negative ? "-" : ""}${units}${decimals && `.${decimals}`}`;
}
